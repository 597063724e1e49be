"""A small Gemma 3 from scratch as a real GGUF file: it has learnt nothing, but it answers.

In F32, as the answers of an untrained model hang on the rounding of quantised activations.
"""

from pathlib import Path

from deployment.prompts.prompt import Prompt, chat_template
from registry.records import LabelSet, Record, Response
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.gguf.plan import QuantType
from tasks.gguf.writer import export_gguf


def tiny_gguf(folder: Path, labels: LabelSet, prompt: Prompt) -> Path:
    spec = ScratchBase(
        kind="scratch", vocab_size=340, hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1,
        head_dim=32, seed=1,
    )  # fmt: skip
    record = Record(command="Hydraulic leak at press SG-402", response=Response(intent="x", entities={}))
    build_scratch_base(spec, [record] * 40, labels, folder / "model")
    path = folder / "gemma3-manufacturing-f32.gguf"
    export_gguf(
        folder / "model",
        path,
        weights=QuantType.F32,
        embedding=QuantType.F32,
        provenance={},
        chat_template=chat_template(prompt),
    )
    return path
