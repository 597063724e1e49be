"""What few labels are worth: `tiny` on a bakery of our own making with 200, 400 and 800 records, free and grounded.

    python -m tests.benchmarks.own_plant --home FOLDER [--rows 200 400 800] [--seeds 1 2 3]

The bakery is synthetic, and nothing of the shipped sample is in it. Machines of the test split are in no other one.
Each row of the table is whole `gemmill retrain`s in FOLDER, whose results are found again there.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_checks.contract import write_jsonl
from flows.settings import PROFILES_FOLDER
from registry.records import OUT_OF_SCOPE, Record, Response
from tasks.reports.page import percent

_TEST_ROWS = 300
_VALIDATION = 6  # of so many training rows, one more to validate with
_MACHINES = {"dough mixer": "DM", "deck oven": "OV", "proofer": "PF", "bread slicer": "SL", "flour silo": "FS"}
_WORDS = {
    "part": ["drive chain", "door seal", "blade guard", "steam nozzle", "load cell", "emergency stop", "bowl lift"],
    "fault": ["scrapes", "overheats", "smells burnt", "will not start", "leaks grease", "shows error E4", "jams"],
    "product": ["rye loaves", "baguettes", "oat rolls", "brioche", "pretzels", "flatbread"],
    "person": ["Ines", "Marek", "Joana", "Femi", "Aiko", "Bruno"],
    "shift": ["early shift", "late shift", "night shift"],
    "reading": ["212 C", "84 % humidity", "3.4 bar", "48 rpm", "17.5 kg", "31 C"],
}
_PHRASES = {
    "report_fault": [
        "{machine} {asset}: {part} {fault}", "the {part} of {asset} {fault}", "{asset} {fault} since the {shift}",
        "{fault}, {machine} {asset}, look at the {part} please", "{person} says that {asset} {fault}",
    ],
    "log_reading": [
        "{asset} shows {reading}", "note {reading} at {machine} {asset}", "{reading} on {asset}, {shift}, {person}",
        "{person} measured {reading} at {asset}",
    ],
    "stop_batch": [
        "stop {product} on {asset}", "hold the {product} and the {product}, {machine} {asset} {fault}",
        "no more {product} from {asset} today, tell {person}", "throw away {product}, {product} and {product}: {fault}",
    ],
    "clean": [
        "{asset} was cleaned by {person}", "deep clean of {machine} {asset} in the {shift}",
        "{person} wiped the {part} and the {part} of {asset}", "clean {part} of {asset} before {product}",
    ],
    "assign": [
        "give {asset} to {person}", "{person} takes over {machine} {asset} in the {shift}",
        "{person} and {person} check {asset}", "ask {person} to look at the {part} of {asset}",
    ],
}  # fmt: skip
_FOREIGN = {
    "what": ["the weather", "the football score", "the capital of Peru", "the price of gold", "the time in Tokyo"],
    "do": ["sing a song", "book a flight", "order pizza", "translate a letter", "play some jazz", "water my plants"],
    "who": ["my sister", "the mayor", "a doctor", "my landlord", "the bank", "grandma"],
}
_FOREIGN_PHRASES = [
    "what is {what} today", "please {do} for {who}", "call {who}", "can you {do}", "tell {who} about {what}",
    "I want to {do} with {who}", "do you know {what}", "remind {who} to {do} tomorrow",
]  # fmt: skip


def bakery(rows: int, *, seed: int) -> dict[str, list[Record]]:
    """The splits, no command twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    sizes = {"test": _TEST_ROWS, "train": rows, "validation": rows // _VALIDATION}
    return {split: [_record(rng, split, seen) for _ in range(size)] for split, size in sizes.items()}


def _record(rng: random.Random, split: str, seen: set[str]) -> Record:
    while True:
        intent = OUT_OF_SCOPE if rng.random() < 0.2 else rng.choice(list(_PHRASES))
        command, entities = (
            _foreign(rng) if intent == OUT_OF_SCOPE else _filled(rng, rng.choice(_PHRASES[intent]), split)
        )
        if command not in seen:
            seen.add(command)
            return Record(command=command, response=Response(intent=intent, entities=entities))


def _foreign(rng: random.Random) -> tuple[str, dict[str, Any]]:
    return rng.choice(_FOREIGN_PHRASES).format(**{name: rng.choice(words) for name, words in _FOREIGN.items()}), {}


def _filled(rng: random.Random, phrase: str, split: str) -> tuple[str, dict[str, Any]]:
    machine, entities = rng.choice(list(_MACHINES)), {}
    while "{" in phrase:
        name = phrase[phrase.index("{") + 1 : phrase.index("}")]
        if name == "machine":
            value = machine
        elif name == "asset":
            value = f"{_MACHINES[machine]}{rng.choice('-/ ')}{rng.randrange(10, 100) + 100 * (split == 'test')}"
        else:
            value = rng.choice([word for word in _WORDS[name] if word not in entities.get(name, [])])
        entities.setdefault(name, []).append(value)
        phrase = phrase.replace("{" + name + "}", value, 1)
    return phrase, {name: values if len(values) > 1 else values[0] for name, values in entities.items()}


def retrained(rows: int, seed: int, home: Path) -> dict[str, Any]:
    """The metrics of `tiny` on a bakery of so many training rows, by stage."""
    place = home / f"{rows}-{seed}"
    summary = place / "summary.json"
    if not summary.exists():
        for split, records in bakery(rows, seed=seed).items():
            place.mkdir(parents=True, exist_ok=True)
            write_jsonl(place / f"{split}.jsonl", records)
        text = (PROFILES_FOLDER / "tiny.toml").read_text().replace("\nseed = 1", f"\nseed = {seed}")
        (place / "tiny.toml").write_text(text)
        arguments = ["retrain", "--profile", place / "tiny.toml", "--data", place, "--summary", summary]
        command = [sys.executable, "-m", "flows.cli.main", *map(str, arguments), "--home", str(place / "home")]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)  # a gate may well block it
    return json.loads(summary.read_text())["metrics"]


def _range(shares: Sequence[float]) -> str:
    ordered = sorted(shares)
    return f"{percent(ordered[len(ordered) // 2])} ({100 * ordered[0]:.1f} … {100 * ordered[-1]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 400, 800])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    table = Table(title=f"a bakery, {_TEST_ROWS} rows asked, median and range of the seeds", title_justify="left")
    for column in ("training rows", "decoding", "JSON", "intent", "entity F1", "exact match"):
        table.add_column(column, justify="right")
    for rows in arguments.rows:
        found = [retrained(rows, seed, arguments.home) for seed in arguments.seeds]
        for stage, decoding in (("gguf", "free"), ("gguf_grounded", "grounded")):
            names = ("json_validity", "intent_accuracy", "entity_f1", "exact_match")
            shares = [_range([metrics[stage][name] for metrics in found]) for name in names]
            table.add_row(str(rows), decoding, *shares)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
