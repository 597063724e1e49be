"""How a byte-level tokenizer splits a text before it merges, under the names by which llama.cpp does the same.

A GGUF file holds the name alone, so a tokenizer.json that describes any other way cannot be converted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import is_normalized

from registry.errors import UsageError
from tasks.checkpoints.files import shown

_WORDS = (  # of Llama 3 and Qwen2, which differ in how many digits go together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NFC = {"type": "NFC"}
_SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}


def _bytes(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}  # with GPT-2's own pattern


def _split(numbers: str) -> dict[str, Any]:
    pattern = {"Regex": _WORDS.replace("NUMBER", numbers)}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """One way, as tokenizer.json describes it.

    Args:
        steps: the pre-tokenizers in order.
        normalizer: what is done to a text before, which llama.cpp leaves out.
        ignore_merges: a word that is a token stays one, whatever its merges say.
        adds_bos: what llama.cpp does where a file does not say.
    """

    steps: tuple[dict[str, Any], ...]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    adds_bos: bool = False

    def reads_as_written(self, text: str) -> bool:
        """Whether the normaliser leaves ``text`` as it is; any other is known to be read otherwise by llama.cpp."""
        return self.normalizer != _NFC or is_normalized("NFC", text)


PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer(steps=(_bytes(use_regex=True),)),
    "smollm": PreTokenizer(steps=(_SINGLE_DIGITS, _bytes(use_regex=True))),
    "llama-bpe": PreTokenizer(
        steps=(_split(r"\p{N}{1,3}"), _bytes(use_regex=False)), ignore_merges=True, adds_bos=True
    ),
    "dbrx": PreTokenizer(steps=(_split(r"\p{N}{1,3}"), _bytes(use_regex=False))),
    "qwen2": PreTokenizer(steps=(_split(r"\p{N}"), _bytes(use_regex=False)), normalizer=_NFC),
}


def pre_tokenizer_name(path: Path, content: Mapping[str, Any]) -> str:
    """llama.cpp's name for how the tokenizer.json at ``path`` splits texts. Raises UsageError where it has none."""
    splitter = content.get("pre_tokenizer")
    if isinstance(splitter, Mapping) and splitter.get("type") == "Sequence":
        splitter = splitter.get("pretokenizers")
    steps = splitter if isinstance(splitter, list) else [splitter]
    found = PreTokenizer(
        steps=tuple(_without_offsets(step) for step in steps),
        normalizer=content.get("normalizer"),
        ignore_merges=bool(content["model"].get("ignore_merges")),
    )
    for name, known in PRE_TOKENIZERS.items():
        if (found.steps, found.normalizer, found.ignore_merges) == (known.steps, known.normalizer, known.ignore_merges):
            return name
    raise UsageError(
        f"{path} splits texts by {shown(list(found.steps))}, normalizer {shown(found.normalizer)}, ignore_merges "
        f"{found.ignore_merges}; only the ways of {', '.join(PRE_TOKENIZERS)} can be converted."
    )


def _without_offsets(step: Any) -> Any:
    """A step less ``trim_offsets``, which changes no token."""
    return {key: value for key, value in step.items() if key != "trim_offsets"} if isinstance(step, Mapping) else step
