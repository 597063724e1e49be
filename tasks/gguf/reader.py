"""The way back: a GGUF file becomes a folder that transformers loads and that converts again."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGUFValueType

from deployment.prompts.prompt import Prompt, chat_template
from deployment.prompts.turns import Turns, turns_in
from registry.errors import UsageError
from registry.files import atomic_directory
from tasks.checkpoints.architectures import (
    ARCHITECTURES,
    MAX_LAYERS,
    OUTPUT,
    Architecture,
    Fields,
    Key,
    Layout,
    Model,
    architecture_of_file,
    describe,
)
from tasks.checkpoints.base_layers import CONFIG_KEY, base_layers_of_file
from tasks.checkpoints.checkpoint import safetensors_header
from tasks.checkpoints.files import shown
from tasks.gguf.container import GgufFile
from tasks.gguf.metadata import sampling_entries
from tasks.gguf.stored_tokenizer import find_token_id, read_list, read_tokenizer, token_id
from tasks.tokenizers.tokenizer_json import tokenizer_json
from tasks.tokenizers.vocabulary import ByteLevelVocabulary, Vocabulary

_KINDS: dict[GGUFValueType, tuple[type, str, float]] = {  # with the limit that a number is below
    GGUFValueType.UINT32: (int, "a positive whole number", 2**31),
    GGUFValueType.FLOAT32: (float, "a positive number", inf),
    GGUFValueType.STRING: (str, "a text", inf),
}
_CHUNK_ELEMENTS = 1 << 22  # 16 MB of float32 at a time


def import_gguf(gguf: Path, out_dir: Path) -> None:
    """Write ``gguf`` as a Hugging Face folder: float32 weights, config, tokenizer, generation config.

    Dequantised a few rows at a time, so memory stays at tens of megabytes plus the vocabulary. Raises
    UsageError for another architecture, a malformed file or a target that is not empty; nothing is written
    then.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UsageError(f"{out_dir} exists and is not an empty folder; name another one or delete it.")
    with GgufFile(gguf) as file:
        model = read_model(file)
        config = model_config(file, model)
        _check_described(file, config)
        vocabulary = read_tokenizer(file)
        _check_tensors(file, model)
        tokenizer_config, generation_config = (
            _tokenizer_config(file, config, vocabulary),
            _generation_config(file, config),
        )
        with atomic_directory(out_dir) as folder, ThreadPoolExecutor(1) as pool:
            # numpy and the disk leave the interpreter to the merges of the tokenizer, which take as long
            weights = pool.submit(_write_weights, file, model, folder / "model.safetensors")
            _write_json(folder / "config.json", config)
            _write_json(folder / "generation_config.json", generation_config)
            _write_json(folder / "tokenizer_config.json", tokenizer_config)
            tokenizer = json.dumps(tokenizer_json(vocabulary), ensure_ascii=False)
            (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
            weights.result()


def read_model(file: GgufFile) -> Model:
    """The architecture of ``file`` and the numbers in its metadata.

    Raises UsageError for another architecture, or where a number is missing or unsound.
    """
    name = file.metadata.get("general.architecture")
    architecture = architecture_of_file(name)
    if architecture is None:
        supported = ", ".join(described.gguf for described in ARCHITECTURES)
        raise UsageError(f"{file.path} holds the architecture {shown(name)}; only {supported} can be imported.")
    known = {f"{architecture.gguf}.{key.name}" for key in architecture.keys}
    for key, value in file.metadata.items():
        foreign = any(part in key for part in architecture.foreign_keys) and key not in known
        if key.startswith(f"{architecture.gguf}.") and foreign and value != "none":
            raise UsageError(f"{file.path} sets {shown(key)}, which the import does not support.")
    fields: Fields = {
        "vocab_size": len(read_list(file, "tokenizer.ggml.tokens", str)),
        "tie_word_embeddings": Model(architecture, {}).gguf_name(OUTPUT) not in file.tensors,
    }
    for key in architecture.keys:
        _read_number(file, architecture, key, fields)
    if fields["num_hidden_layers"] > MAX_LAYERS:
        raise UsageError(
            f"{file.path} claims {fields['num_hidden_layers']} layers, more than llama.cpp's {MAX_LAYERS}."
        )
    return Model(architecture, fields)


def model_config(file: GgufFile, model: Model) -> dict[str, Any]:
    """config.json of a causal language model with the shapes and constants of ``file``."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    bos, eos, padding = find_token_id(file, "bos"), token_id(file, "eos"), find_token_id(file, "padding")
    ends = {turns.form.end for turns in Turns}
    end_of_turn = [id_ for id_, token in enumerate(tokens) if token in ends]
    layers = base_layers_of_file(file.metadata)
    return {
        "architectures": [model.architecture.causal_lm],
        "model_type": model.architecture.model_type,
        **model.architecture.config(model.fields),
        "bos_token_id": bos,
        "eos_token_id": [eos, *(id_ for id_ in end_of_turn if id_ != eos)],
        "pad_token_id": padding,
        "dtype": "float32",
        **({CONFIG_KEY: list(layers)} if layers else {}),
    }


def _check_described(file: GgufFile, config: dict[str, Any]) -> None:
    """Refuse what could not be converted again, by the same checks."""
    try:
        describe(config)
    except UsageError as error:
        raise UsageError(f"{file.path} holds no model that can be imported: {error}") from error


def tensor_rows(file: GgufFile, name: str, layout: Layout) -> Iterator[np.ndarray]:
    """The tensor of a GGUF name as the Hugging Face values, float32, a few rows at a time."""
    tensor = file.tensors[name]
    step = layout.rows_at_once(max(1, _CHUNK_ELEMENTS // tensor.row_length))
    for start in range(0, tensor.rows, step):
        yield layout.original(file.rows(name, start, min(start + step, tensor.rows)))


def _check_tensors(file: GgufFile, model: Model) -> None:
    """Refuse a file that has not exactly the tensors that its metadata asks for."""
    shapes = {model.gguf_name(name): shape for name, shape in model.tensor_shapes.items()}
    for name in [*shapes, *file.tensors]:
        found = file.tensors[name].shape if name in file.tensors else None
        if found != shapes.get(name):
            raise UsageError(f"{file.path} has {name} of shape {found} where its metadata asks for {shapes.get(name)}.")


def _write_weights(file: GgufFile, model: Model, path: Path) -> None:
    """All tensors as float32 in one safetensors file, streamed."""
    tensors = {name: file.tensors[model.gguf_name(name)] for name in model.tensor_shapes}
    with path.open("wb") as stream:
        stream.write(safetensors_header({name: ("F32", tensor.shape) for name, tensor in tensors.items()}))
        for name, tensor in tensors.items():
            for values in tensor_rows(file, tensor.name, model.layout(name)):
                if not np.isfinite(values).all():
                    raise UsageError(
                        f"{tensor.name} in {file.path} holds NaN or infinity; fetch or make the file again."
                    )
                stream.write(np.ascontiguousarray(values, dtype="<f4").data)


def _generation_config(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    sampling = {
        name: _shortest(file.metadata[f"general.sampling.{key}"])
        for key, name in (("top_k", "top_k"), ("top_p", "top_p"), ("temp", "temperature"))
        if f"general.sampling.{key}" in file.metadata
    }
    list(sampling_entries(sampling, file.path))
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**ids, **({"do_sample": True} if sampling else {}), **sampling}


def _tokenizer_config(
    file: GgufFile, config: dict[str, Any], vocabulary: Vocabulary | ByteLevelVocabulary
) -> dict[str, Any]:
    special = {"bos": vocabulary.bos, "eos": vocabulary.eos, "unk": vocabulary.unknown, "pad": vocabulary.padding}
    turns = turns_in(set(vocabulary.tokens))
    own = chat_template(Prompt(turns=turns)) if turns else None
    template = file.metadata.get("tokenizer.chat_template", own)
    if template is not None and not isinstance(template, str):
        raise UsageError(f"{file.path} has a tokenizer.chat_template that is no text.")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": None if id_ is None else vocabulary.tokens[id_] for name, id_ in special.items()},
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        **({"chat_template": template} if template else {}),
    }


def _read_number(file: GgufFile, architecture: Architecture, key: Key, fields: Fields) -> None:
    """Put the number under ``key`` into ``fields``; where it is there already, they must agree."""
    name = f"{architecture.gguf}.{key.name}"
    value = file.metadata.get(name, key.default)
    if value is None and key.optional:
        return
    kind, words, limit = _KINDS[key.type]
    in_range = isinstance(value, str) or (value is not None and (0 < value < limit or (key.zero and value == 0)))
    if type(value) is not kind or not in_range:
        raise UsageError(f"{file.path} has {name} = {shown(value)} where {words} belongs.")
    if fields.setdefault(key.field, _shortest(value)) != _shortest(value):
        raise UsageError(f"{file.path} has {name} = {value!r}, which contradicts {key.field} = {fields[key.field]!r}.")


def _shortest(value: Any) -> Any:
    """A float32 as the decimal that people wrote: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
