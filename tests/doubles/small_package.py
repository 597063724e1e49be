"""A small package for tests: real in every part but its weights, which are a sound file of two tensors."""

from math import prod
from pathlib import Path

from gguf.constants import GGMLQuantizationType, GGUFValueType

from deployment.answers.rules import default_rules
from deployment.packages.licence import Licence, gemma_licence
from deployment.packages.package import Card, Package, build_package, verify_package
from deployment.prompts.prompt import Prompt
from registry.records import LabelSet
from tasks.gguf.container import KeyValue, header_bytes

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


def small_gguf(text: str, *, in_order: bool = True) -> bytes:
    """A GGUF file that holds ``text``, in the order of llama.cpp's rewriting or in another."""
    entries = [
        KeyValue("general.quantization_version", GGUFValueType.UINT32, 2),
        KeyValue("general.file_type", GGUFValueType.UINT32, 0),
    ]
    about = [
        KeyValue("general.architecture", GGUFValueType.STRING, "gemma3"),
        KeyValue("gemmill.note", GGUFValueType.STRING, text),
    ]
    tensors = [("output_norm.weight", (32,)), ("token_embd.weight", (4, 32))]
    if not in_order:
        tensors.reverse()
    headers, offset = [], 0
    for name, shape in tensors:
        headers.append((name, shape, GGMLQuantizationType.F32, offset))
        offset += 4 * prod(shape)
    return header_bytes([*about, *entries] if in_order else [*entries, *about], headers) + bytes(offset)


def gguf_file(folder: Path, content: bytes | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-q8_0.gguf"
    path.write_bytes(small_gguf("weights") if content is None else content)
    return path


def make_package(
    folder: Path,
    *,
    content: bytes | None = None,
    instruction: str = "",
    licence: Licence | None = None,
) -> Package:
    out = folder / "package"
    build_package(
        out,
        name=NAME,
        gguf=gguf_file(folder / "exported", content),
        labels=LABELS,
        rules=default_rules(LABELS),
        prompt=Prompt(instruction=instruction),
        golden=GOLDEN,
        card=CARD,
        licence=licence or gemma_licence(),
    )
    return verify_package(out)
