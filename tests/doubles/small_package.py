"""A small package for tests: real in every part but its weights."""

from pathlib import Path

from data_checks.contract import LabelSet
from deployment.licence import Licence, gemma_licence
from deployment.package import Card, Package, build_package, verify_package
from deployment.prompt import Prompt

LABELS = LabelSet(
    name="plant",
    intents={"report_issue": "a fault", "out_of_scope": "anything else"},
    entities={"asset_id": "on the plate"},
)
GOLDEN = (
    (
        "Hydraulic leak at press SG-402",
        '{"intent": "report_issue", "entities": {"asset_id": "SG-402"}}',
    ),
    ("What is the weather tomorrow?", '{"intent": "out_of_scope", "entities": {}}'),
)
CARD = Card(
    base="gemma-3-270m",
    profile="tiny",
    dataset="plant, snapshot 0123456789ab",
    rows={"train": 1892, "validation": 300, "test": 300},
    metrics={"teacher": {"exact_match": 0.93}, "gguf": {"exact_match": 0.915, "oos_recall": None}},
    gates=({"name": "exact match", "passed": True, "value": 0.915, "threshold": 0.85},),
    origin={"snapshot_sha256": "ab" * 32, "git_revision": "c0ffee"},
)
NAME = "gemma3-manufacturing"


def gguf_file(folder: Path, content: bytes = b"GGUF and weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-q8_0.gguf"
    path.write_bytes(content)
    return path


def make_package(
    folder: Path,
    *,
    content: bytes = b"GGUF and weights",
    instruction: str = "",
    licence: Licence | None = None,
) -> Package:
    out = folder / "package"
    build_package(
        out,
        name=NAME,
        gguf=gguf_file(folder / "exported", content),
        labels=LABELS,
        prompt=Prompt(instruction=instruction),
        golden=GOLDEN,
        card=CARD,
        licence=licence or gemma_licence(),
    )
    return verify_package(out)
