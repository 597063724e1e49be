"""Commands that nobody would think of, and some that people really send."""

from hypothesis import strategies as st

from registry.records import MAX_COMMAND

_PARTS = (
    *(
        "pump",
        "WM20",
        "SG-402",
        "oil leak",
        "No.",
        "3.5",
        "bar",
        "a_b",
        "ÄÖ",
        "ß",
        "İ",
        "ﬁ",
        "泵漏油",
        "12号",
        "🔧",
        "👩‍🔧",
    ),
    *(" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\x1f", "\x7f", "\x85", "\u2028", "e\u0301", "\u0301", "\u200b"),
    *('"', "'", "\\", "\\n", '\\"', "\\u0041", "{", "}", "[", "]", "%s", "::=", "root", "<end_of_turn>", "\ufffd"),
)

HOSTILE = (
    *("W", " ", " \n\t ", "\u0301", '"', "\\", '"""\\\\"""', '{"intent": "check"}', 'root ::= "x"', "\x01\x02\x7f"),
    *("pump\nWM20\tleaks\r\nat once", "e\u0301 \u0301x", "检查12号泵，漏油。", "🔧👩‍🔧🔧", "مضخة ٣ تسرب", "a" * 500),
    ("pump WM20 leaks oil, " * 100)[:MAX_COMMAND],
    "a1-" * (MAX_COMMAND // 3),
    " ".join(f"{number}x" for number in range(600))[:MAX_COMMAND],
    "\\" * MAX_COMMAND,
    "漏油" * (MAX_COMMAND // 2),
)


def commands(*, longest: int = 60) -> st.SearchStrategy[str]:
    """Any text without NUL, as no command holds one, or a run of parts that are hard to cut or to quote."""
    anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=longest)
    built = st.lists(st.sampled_from(_PARTS), max_size=longest // 4).map("".join)
    return anything | built
