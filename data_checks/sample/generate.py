"""Write the synthetic sample from its grammar: ``python -m data_checks.sample.generate [FOLDER]``.

The same grammar always gives the same bytes. Asset ids of one split never occur in another, commands never
repeat, and validation and test hold out-of-scope phrasings that training does not.
"""

import random
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from data_checks.contract import write_jsonl
from data_checks.sample import SAMPLE_DIR
from registry.files import write_text
from registry.records import OUT_OF_SCOPE, LabelSet, Record, Response, label_set_toml

_SEED = 402
_SOURCE = "synthetic"
_ROWS = {"train": 1892, "validation": 300, "test": 300}
_OUT_OF_SCOPE_SHARE = 0.2
_ASSET_IDS = {
    "train": (0.0, 0.6),
    "validation": (0.6, 0.8),
    "test": (0.8, 1.0),
}  # each split's part of the numbers
_CASUAL_SHARE = 0.35  # of the commands: no capital, no full stop
_OPENING_SHARE = 0.25  # of the out-of-scope rows: an opening must not tell an audit command from small talk
_CHOICE = re.compile(r"\(([^()]*)\)")
_MACRO = re.compile(r"<(\w+)>")
_SLOT = re.compile(r"\{(?:(a|on):)?(\w+)\}")

_LEAK = Record(
    command="Surface grinder SG-402 has a hydraulic fluid leak at the main cylinder seal.",
    response=Response(
        intent="report_issue",
        entities={
            "asset_id": "SG-402",
            "equipment": "Surface grinder",
            "component": "main cylinder seal",
            "issue": "hydraulic fluid leak",
        },
    ),
    source=_SOURCE,
)
_WEATHER = "What's the weather like tomorrow?"
_GOLDEN = ("something is wrong with MX-91, it has a false alarm", "Send a spare oil filter for FL-85.", _WEATHER)


def sample_labels() -> LabelSet:
    """The label set of the sample."""
    grammar = _toml("grammar.toml")
    intents = {name: intent["about"] for name, intent in grammar["intents"].items()}
    return LabelSet(
        name="manufacturing-audit",
        intents={**intents, OUT_OF_SCOPE: "anything that is not an audit command"},
        entities=grammar["entities"],
        golden=_GOLDEN,
    )


def sample_records() -> dict[str, list[Record]]:
    """The records of each split, shuffled."""
    grammar, rng = _toml("grammar.toml"), random.Random(_SEED)
    seen = {_key(_LEAK.command), _key(_WEATHER)}
    splits = _out_of_scope(rng, seen)
    splits["test"] += [_LEAK, _refused(_WEATHER)]
    for split, rows in _ROWS.items():
        splits[split] += _in_scope(grammar, split, rows - len(splits[split]), rng, seen)
        rng.shuffle(splits[split])
    return splits


@cache
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((SAMPLE_DIR / name).read_text(encoding="utf-8"))


def _key(command: str) -> str:
    return command.lower().rstrip(".?!")


def _in_scope(grammar: dict[str, Any], split: str, rows: int, rng: random.Random, seen: set[str]) -> Iterator[Record]:
    """``rows`` new commands, the intents in proportion to their shares and their phrasings in turn."""
    intents = grammar["intents"]
    total = sum(intent["share"] for intent in intents.values())
    ends, share_so_far = {}, 0
    for name, intent in intents.items():
        share_so_far += intent["share"]
        ends[name] = round(rows * share_so_far / total)
    made = 0
    for name, intent in intents.items():
        turn = rng.randrange(len(intent["phrasings"]))
        while made < ends[name]:
            phrasing = intent["phrasings"][turn % len(intent["phrasings"])]
            kinds = grammar[intent.get("kinds", "equipment")]
            command, entities = _command(phrasing, kinds, grammar, split, rng)
            if _key(command) in seen:
                continue
            seen.add(_key(command))
            made, turn = made + 1, turn + 1
            yield Record(command=command, response=Response(intent=name, entities=entities), source=_SOURCE)


def _command(
    phrasing: str, kinds: dict[str, str], grammar: dict[str, Any], split: str, rng: random.Random
) -> tuple[str, dict[str, str | list[str]]]:
    """A command and the entities that it names, from one phrasing."""
    while macro := _MACRO.search(phrasing):
        phrasing = phrasing.replace(macro[0], rng.choice(grammar["macros"][macro[1]]), 1)
    phrasing = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), phrasing)
    kind = rng.choice(list(kinds))
    measurement = rng.choice(list(grammar["measurements"]))
    found: dict[str, list[str]] = {}

    def value_of(slot: str) -> str:
        match slot:
            case "asset_id":
                return rng.choice(_asset_ids(kinds[kind], split))
            case "equipment":
                return kind
            case "measurement":
                return measurement
            case "value":
                low, high, unit = grammar["measurements"][measurement]
                return f"{rng.randint(low, high)} {unit}"
            case _:
                return rng.choice(grammar["values"][slot])

    def fill(match: re.Match[str]) -> str:
        values = found.setdefault(match[2].removeprefix("past_"), [])
        value = value_of(match[2])
        while value in values:
            value = value_of(match[2])
        values.append(value)
        return _with_word(match[1], value)

    text = _styled(_SLOT.sub(fill, phrasing), rng)
    order = list(grammar["entities"])
    entities = {}
    for name in sorted(found, key=order.index):
        values = [value if value in text else value[0].upper() + value[1:] for value in found[name]]
        entities[name] = values[0] if len(values) == 1 else values
    return text, entities


def _with_word(word: str | None, value: str) -> str:
    """``value`` with its article or preposition where English wants one."""
    if word == "a":
        return f"{'an' if value[0] in 'aeiou' else 'a'} {value}"
    if word == "on":  # on Monday, but tomorrow, next week
        return f"on {value}" if value[0].isupper() else value
    return value


@cache
def _asset_ids(pattern: str, split: str) -> list[str]:
    """The ids like ``pattern``, such as CNC-##, that belong to ``split``."""
    digits = pattern.count("#")
    ids = [pattern.replace("#" * digits, str(number)) for number in range(10 ** (digits - 1), 10**digits)]
    random.Random(pattern).shuffle(ids)
    start, end = _ASSET_IDS[split]
    part = [item for item in ids[int(start * len(ids)) : int(end * len(ids))] if item != "SG-402"]
    return [*part, "SG-402"] if pattern == "SG-###" and split == "test" else part


def _out_of_scope(rng: random.Random, seen: set[str]) -> dict[str, list[Record]]:
    """Sentences from elsewhere: each split's own, filled up with texts of the known phrasings."""
    sentences = _toml("out_of_scope.toml")
    variants = [_expansions(phrasing) for phrasing in sentences["known"]]
    for texts in variants:
        rng.shuffle(texts)
    deepest = max(map(len, variants))
    known = [texts[depth] for depth in range(deepest) for texts in variants if depth < len(texts)]
    splits = {}
    for split, rows in _ROWS.items():
        texts = list(sentences.get(split, []))
        while len(texts) < round(rows * _OUT_OF_SCOPE_SHARE):
            text = known.pop(0)
            if _key(text) not in seen:
                seen.add(_key(text))
                texts.append(text)
        splits[split] = [_refused(_styled(_opened(text, rng), rng)) for text in texts]
    return splits


def _refused(command: str) -> Record:
    return Record(command=command, response=Response(intent=OUT_OF_SCOPE, entities={}), source=_SOURCE)


def _opened(text: str, rng: random.Random) -> str:
    openings = list(filter(None, _toml("grammar.toml")["macros"]["opening"]))
    return rng.choice(openings) + text if rng.random() < _OPENING_SHARE else text


def _expansions(phrasing: str) -> list[str]:
    """Every text of ``phrasing``."""
    parts = _CHOICE.split(phrasing)
    return ["".join(choice) for choice in product(*(part.split("|") for part in parts))]


def _styled(text: str, rng: random.Random) -> str:
    """``text`` as typed in a hurry, or with a capital and punctuation."""
    if rng.random() < _CASUAL_SHARE:
        return text.rstrip(".")
    return text[0].upper() + text[1:]


def write_sample(folder: Path) -> None:
    """Write the three splits and the label set into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = sample_records()
    for split, records in splits.items():
        write_jsonl(folder / f"{split}.jsonl", records)
    labels = sample_labels().learnt(record.response for record in splits["train"])
    write_text(folder / "labels.toml", label_set_toml(labels))


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE_DIR)
