"""The way back: a Gemma 3 GGUF file becomes a folder that transformers loads and that converts again."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf.constants import TokenType

from deployment.prompt import END_OF_TURN, Prompt, chat_template
from registry.artifacts import atomic_directory
from registry.errors import UsageError
from tasks.gguf_export.container import GgufFile, Tensor
from tasks.gguf_export.metadata import ARCHITECTURE, MAX_LAYERS, layer_types
from tasks.gguf_export.names import gguf_name, is_norm, tensor_shapes
from tasks.gguf_export.tokenizer import Vocabulary
from tasks.gguf_export.tokenizer_json import tokenizer_json

_LOCAL_ROPE_THETA = 10_000.0  # llama.cpp's value for gemma3 where the file names none
_CHUNK_ELEMENTS = 1 << 22  # 16 MB of float32 at a time

# Keys that change the function and that this reader does not carry over.
_UNSUPPORTED = ("rope.scaling.", "attention.sliding_window_pattern", "logit_softcapping", "attention.causal")


def import_gguf(gguf: Path, out_dir: Path) -> None:
    """Write ``gguf`` as a Hugging Face folder: float32 weights, config, tokenizer, generation config.

    Dequantised a few rows at a time, so memory stays at tens of megabytes plus the vocabulary. Raises
    UsageError for another architecture, a malformed file or a target that is not empty; nothing is written
    then.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UsageError(f"{out_dir} exists and is not an empty folder; name another one or delete it.")
    with GgufFile(gguf) as file:
        config = model_config(file)
        vocabulary = read_vocabulary(file)
        tensors = _checked_tensors(file, config)
        with atomic_directory(out_dir) as folder:
            _write_weights(file, tensors, folder / "model.safetensors")
            _write_json(folder / "config.json", config)
            _write_json(folder / "generation_config.json", _generation_config(file, config))
            _write_json(folder / "tokenizer_config.json", _tokenizer_config(file, vocabulary))
            (folder / "tokenizer.json").write_text(
                json.dumps(tokenizer_json(vocabulary), ensure_ascii=False), encoding="utf-8"
            )


def model_config(file: GgufFile) -> dict[str, Any]:
    """config.json of a Gemma3ForCausalLM with the shapes and constants of ``file``."""
    architecture = file.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise UsageError(f"{file.path} holds the architecture {architecture!r}; only {ARCHITECTURE} can be imported.")
    for key, value in file.metadata.items():
        if key.startswith(f"{ARCHITECTURE}.") and any(part in key for part in _UNSUPPORTED) and value != "none":
            raise UsageError(f"{file.path} sets {key}, which the import does not support.")
    layers = _number(file, "block_count")
    if layers > MAX_LAYERS:
        raise UsageError(f"{file.path} claims {layers} layers, more than llama.cpp's {MAX_LAYERS}.")
    tokens = _list(file, "tokenizer.ggml.tokens", str)
    eos = _token_id(file, "eos")
    end_of_turn = [id_ for id_, token in enumerate(tokens) if token == END_OF_TURN]
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": len(tokens),
        "hidden_size": _number(file, "embedding_length"),
        "intermediate_size": _number(file, "feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": _number(file, "attention.head_count"),
        "num_key_value_heads": _number(file, "attention.head_count_kv"),
        "head_dim": _number(file, "attention.key_length"),
        "query_pre_attn_scalar": _number(file, "attention.key_length"),
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": _number(file, "context_length"),
        "sliding_window": _number(file, "attention.sliding_window"),
        "layer_types": layer_types(layers),
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": _float(file, "rope.freq_base", 10_000.0),
            },
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": _float(file, "rope.freq_base_swa", _LOCAL_ROPE_THETA),
            },
        },
        "rms_norm_eps": _float(file, "attention.layer_norm_rms_epsilon"),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "initializer_range": 0.02,
        "use_bidirectional_attention": False,
        "use_cache": True,
        "tie_word_embeddings": True,
        "bos_token_id": _token_id(file, "bos"),
        "eos_token_id": [eos, *(id_ for id_ in end_of_turn if id_ != eos)],
        "pad_token_id": _token_id(file, "padding"),
        "dtype": "float32",
    }


def read_vocabulary(file: GgufFile) -> Vocabulary:
    """The vocabulary of ``file``. Raises UsageError where it is not SentencePiece's, or unsound."""
    model = file.metadata.get("tokenizer.ggml.model")
    if model != "llama":
        raise UsageError(
            f"{file.path} holds the tokenizer {model!r}; Gemma 3 has SentencePiece, which GGUF calls 'llama'."
        )
    tokens, scores, types = (
        _list(file, f"tokenizer.ggml.{key}", kind)
        for key, kind in (("tokens", str), ("scores", float), ("token_type", int))
    )
    if not len(tokens) == len(scores) == len(types):
        raise UsageError(f"{file.path} has {len(tokens)} tokens, but {len(scores)} scores and {len(types)} types.")
    if unknown := set(types) - set(TokenType):
        raise UsageError(f"{file.path} has tokens of the unknown type {min(unknown)}.")
    return Vocabulary(
        tokens=tokens,
        scores=scores,
        types=types,
        bos=_token_id(file, "bos"),
        eos=_token_id(file, "eos"),
        unknown=_token_id(file, "unknown"),
        padding=_token_id(file, "padding"),
    )


def tensor_rows(file: GgufFile, name: str) -> Iterator[np.ndarray]:
    """The tensor of a GGUF name as the Hugging Face values (norms less 1), float32, a few rows at a time."""
    tensor = file.tensors[name]
    step = max(1, _CHUNK_ELEMENTS // tensor.row_length)
    for start in range(0, tensor.rows, step):
        values = file.rows(name, start, min(start + step, tensor.rows))
        yield values - np.float32(1) if is_norm(name) else values


def _checked_tensors(file: GgufFile, config: dict[str, Any]) -> dict[str, Tensor]:
    """Hugging Face name -> tensor of ``file``, once it is known to hold exactly the tensors of ``config``."""
    shapes = {gguf_name(name): shape for name, shape in tensor_shapes(config).items()}
    for name in [*shapes, *file.tensors]:
        found = file.tensors[name].shape if name in file.tensors else None
        if found != shapes.get(name):
            raise UsageError(f"{file.path} has {name} of shape {found} where its metadata asks for {shapes.get(name)}.")
    return {name: file.tensors[gguf_name(name)] for name in tensor_shapes(config)}


def _write_weights(file: GgufFile, tensors: dict[str, Tensor], path: Path) -> None:
    """All tensors as float32 in one safetensors file, streamed."""
    with path.open("wb") as stream:
        _write_safetensors_header(stream, tensors)
        for tensor in tensors.values():
            for values in tensor_rows(file, tensor.name):
                stream.write(np.ascontiguousarray(values, dtype="<f4").data)


def _write_safetensors_header(stream: BinaryIO, tensors: dict[str, Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 4 * tensor.rows * tensor.row_length
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)


def _generation_config(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    sampling = {
        name: _shortest(file.metadata[f"general.sampling.{key}"])
        for key, name in (("top_k", "top_k"), ("top_p", "top_p"), ("temp", "temperature"))
        if f"general.sampling.{key}" in file.metadata
    }
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**ids, **({"do_sample": True} if sampling else {}), **sampling}


def _tokenizer_config(file: GgufFile, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary.tokens[vocabulary.bos],
        "eos_token": vocabulary.tokens[vocabulary.eos],
        "unk_token": vocabulary.tokens[vocabulary.unknown],
        "pad_token": vocabulary.tokens[vocabulary.padding],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _number(file, "context_length"),
        "chat_template": file.metadata.get("tokenizer.chat_template", chat_template(Prompt())),
    }


def _list(file: GgufFile, key: str, kind: type) -> list[Any]:
    values = file.metadata.get(key)
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise UsageError(f"{file.path} lacks a sound list under {key}.")
    return values


def _number(file: GgufFile, key: str) -> int:
    value = file.metadata.get(f"{ARCHITECTURE}.{key}")
    if type(value) is not int or value <= 0:
        raise UsageError(f"{file.path} has {ARCHITECTURE}.{key} = {value!r} where a positive whole number belongs.")
    return value


def _float(file: GgufFile, key: str, default: float | None = None) -> float:
    value = file.metadata.get(f"{ARCHITECTURE}.{key}", default)
    if not isinstance(value, float) or not value > 0:
        raise UsageError(f"{file.path} has {ARCHITECTURE}.{key} = {value!r} where a positive number belongs.")
    return _shortest(value)


def _shortest(value: Any) -> Any:
    """A float32 as the decimal that people wrote: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _token_id(file: GgufFile, name: str) -> int:
    value = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if type(value) is not int or not isinstance(tokens, list) or not 0 <= value < len(tokens):
        raise UsageError(
            f"{file.path} has tokenizer.ggml.{name}_token_id = {value!r}, which is no id of its vocabulary."
        )
    return value


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
