"""Every command that opens a checkpoint gives the model that was saved, or says in a sentence why not.

The references are transformers' and PEFT's own loading of the undamaged folders.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damages import HARMFUL_TO_ADAPTERS, HARMFUL_TO_MODELS, HARMLESS_TO_ADAPTERS, HARMLESS_TO_MODELS
from peft import PeftModel
from torch_models import Copy, logits
from transformers import AutoModelForCausalLM

from registry.errors import UsageError
from tasks.bases.resolve import resolve_base
from tasks.bases.spec import FolderBase
from tasks.checkpoints.loading import load_model, load_with_adapter
from tasks.checkpoints.source import open_source
from tasks.depth.writing import write_layers
from tasks.evaluation import hf_runtime
from tasks.forensics.repair import repair_norms
from tasks.forensics.statistics import tensor_statistics
from tasks.gguf.adapter import export_adapter
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.training import models

Opened = Callable[[Path, Path], Any]  # a folder and where something may be written -> what must be equal


def _written(write: Callable[[Path, Path], Any]) -> Opened:
    def opened(folder: Path, out: Path) -> Any:
        write(folder, out / "out.gguf")
        return (out / "out.gguf").read_bytes()

    return opened


def _convert(folder: Path, out: Path) -> None:
    export_gguf(folder, out, weights=QuantType.F32, provenance={"general.name": "x"})


def _prune_depth(folder: Path, out: Path) -> Any:
    (out / "shallow").mkdir()
    write_layers(folder, out / "shallow", (1,), ["sliding_attention"] * 2)
    return logits(load_model(out / "shallow")).tolist()


def _tensors(folder: Path, out: Path) -> Any:
    with open_source(folder) as source:
        found = source.checkpoint.tensors
        return {name: source.checkpoint.rows(name, 0, tensor.row_count).tolist() for name, tensor in found.items()}


def _repaired(folder: Path, out: Path) -> Any:
    repair_norms(folder, out / "repaired")
    return logits(load_model(out / "repaired")).tolist()


def _base(folder: Path, out: Path) -> Any:
    resolve_base(FolderBase(kind="folder", path=folder), out, records=[], labels=None, key="")  # type: ignore[arg-type]


def _statistics(folder: Path, out: Path) -> Any:
    found = tensor_statistics(folder)
    return sorted(str(tensor.model_dump()) for tensor in found.tensors)


MODEL_LOADERS: dict[str, Opened] = {
    "retrain": lambda folder, out: logits(models.load_model(folder, bits=32)).tolist(),
    "retrain's base": _base,
    "evaluate": lambda folder, out: logits(hf_runtime.load_model(folder)[0]).tolist(),
    "proofs": lambda folder, out: logits(load_model(folder, device="cpu")).tolist(),
    "prune-vocab": _tensors,
    "convert": _written(_convert),
    "prune depth": _prune_depth,
    "inspect": _statistics,
    "repair-norms": _repaired,
}
ADAPTER_LOADERS: dict[str, Opened] = {
    "evaluate": lambda folder, out: logits(hf_runtime.load_model(folder)[0]).tolist(),
    "convert": _written(lambda folder, out: export_adapter(folder, out, weights=QuantType.F32, name="x")),
    "inspect": _statistics,
}
_TWICE = "the tied embedding stored twice"


def _refused(opened: Opened, folder: Path, out: Path, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        opened(folder, out)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))
    assert not (out / "out.gguf").exists() and not (out / "repaired").exists()


@pytest.mark.parametrize("loader", MODEL_LOADERS)
@pytest.mark.parametrize("damage", HARMFUL_TO_MODELS)
def test_what_is_not_the_whole_model_is_refused(
    tiny_model_dir: Path, copy_of: Copy, tmp_path: Path, damage: str, loader: str
) -> None:
    folder = copy_of(tiny_model_dir)
    change, reason = HARMFUL_TO_MODELS[damage]
    change(folder)
    _refused(MODEL_LOADERS[loader], folder, tmp_path, reason)


@pytest.mark.parametrize("loader", MODEL_LOADERS)
@pytest.mark.parametrize("damage", HARMLESS_TO_MODELS)
def test_the_same_model_under_other_names_gives_the_same(
    tiny_model_dir: Path, copy_of: Copy, tmp_path: Path, damage: str, loader: str
) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    expected = MODEL_LOADERS[loader](tiny_model_dir, tmp_path / "before")
    folder = copy_of(tiny_model_dir)
    HARMLESS_TO_MODELS[damage](folder)
    found = MODEL_LOADERS[loader](folder, tmp_path / "after")
    if loader == "inspect" and damage == _TWICE:  # it shows what lies in the file
        found = [tensor for tensor in found if "lm_head" not in tensor]
    assert found == expected


def test_the_undamaged_model_is_what_transformers_loads(tiny_model_dir: Path, adapter_dir: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype="float32")
    before = logits(reference)
    assert logits(load_model(tiny_model_dir)).equal(before)
    after = logits(PeftModel.from_pretrained(reference, adapter_dir))
    assert logits(load_with_adapter(adapter_dir)).equal(after)
    assert (after - before).abs().max() > 0.1


@pytest.mark.parametrize("loader", ADAPTER_LOADERS)
@pytest.mark.parametrize("damage", HARMFUL_TO_ADAPTERS)
def test_half_an_adapter_is_refused(adapter_dir: Path, copy_of: Copy, tmp_path: Path, damage: str, loader: str) -> None:
    folder = copy_of(adapter_dir)
    change, reason = HARMFUL_TO_ADAPTERS[damage]
    change(folder)
    _refused(ADAPTER_LOADERS[loader], folder, tmp_path, reason)


@pytest.mark.parametrize("loader", ADAPTER_LOADERS)
@pytest.mark.parametrize("damage", HARMLESS_TO_ADAPTERS)
def test_the_same_adapter_under_other_names_gives_the_same(
    adapter_dir: Path, copy_of: Copy, tmp_path: Path, damage: str, loader: str
) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    expected = ADAPTER_LOADERS[loader](adapter_dir, tmp_path / "before")
    folder = copy_of(adapter_dir)
    HARMLESS_TO_ADAPTERS[damage](folder)
    assert ADAPTER_LOADERS[loader](folder, tmp_path / "after") == expected
