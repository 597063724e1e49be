"""The metadata of a GGUF file: upstream's names, values, types and order, where it came from, and what is always last.

Follows llama.cpp's convert_hf_to_gguf.py; what an architecture has of its own is in its description.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from gguf.constants import GGML_QUANT_VERSION, GGUFValueType, LlamaFileType
from gguf.utility import size_label

from registry.errors import UsageError
from tasks.checkpoints.architectures import Model
from tasks.checkpoints.files import shown
from tasks.gguf.container import KeyValue
from tasks.quant.types import QuantType
from tasks.tokenizers.vocabulary import ByteLevelVocabulary, Vocabulary

_PROVENANCE = ("general.", "gemmill.")
LICENCE_KEYS = {  # by their names in a model card
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
}
_FILE_TYPES = {
    QuantType.F32: LlamaFileType.ALL_F32,
    **{type_: LlamaFileType[f"MOSTLY_{type_.name}"] for type_ in QuantType if type_ is not QuantType.F32},
}


def metadata(
    model: Model,
    vocabulary: Vocabulary | ByteLevelVocabulary,
    *,
    weights: QuantType,
    name: str,
    sampling: Mapping[str, Any],
    chat_template: str | None,
    provenance: Mapping[str, str],
) -> list[KeyValue]:
    """All entries in the order of the file; ``provenance`` holds further ``general.*`` and ``gemmill.*`` texts.

    ``sampling`` is generation_config.json.
    """
    unknown = [key for key in provenance if not key.startswith(_PROVENANCE)]
    if unknown:
        raise UsageError(f"the provenance key {unknown[0]!r} begins with neither of {', '.join(_PROVENANCE)}.")
    further = {key: value for key, value in provenance.items() if key != "general.name"}
    licence = {key: further.pop(key) for key in LICENCE_KEYS.values() if key in further}
    entries = [
        *_general(model, name, sampling),
        *(_text(key, value) for key, value in licence.items()),
        *_architecture(model),
        *_tokenizer(vocabulary, chat_template),
        *(_text(key, value) for key, value in further.items()),
        KeyValue("general.quantization_version", GGUFValueType.UINT32, GGML_QUANT_VERSION),
        KeyValue("general.file_type", GGUFValueType.UINT32, int(_FILE_TYPES[weights])),
    ]
    keys = [entry.key for entry in entries]
    if len(keys) != len(set(keys)):
        raise UsageError(f"the provenance sets {next(key for key in keys if keys.count(key) > 1)}, which is computed.")
    return entries


def _general(model: Model, name: str, sampling: Mapping[str, Any]) -> list[KeyValue]:
    parameters = sum(prod(shape) for shape in model.tensor_shapes.values())
    return [
        _text("general.architecture", model.architecture.gguf),
        _text("general.type", "model"),
        *sampling_entries(sampling, "generation_config.json"),
        _text("general.name", name),
        _text("general.size_label", size_label(parameters, 0, 0, 0)),
    ]


def sampling_entries(config: Mapping[str, Any], source: object) -> Iterator[KeyValue]:
    """The sampling defaults among the fields of a generation_config.json. Raises UsageError for an impossible one."""
    for field, key, kind, numbers, largest in (
        ("top_k", "top_k", GGUFValueType.INT32, (int,), 2**31 - 1),
        ("top_p", "top_p", GGUFValueType.FLOAT32, (int, float), 1),
        ("temperature", "temp", GGUFValueType.FLOAT32, (int, float), 1e6),
    ):
        value = config.get(field)
        if value is None:
            continue
        if type(value) not in numbers or not 0 <= value <= largest:
            raise UsageError(f"{source} has {field} = {shown(value)} where a number from 0 to {largest} belongs.")
        yield KeyValue(f"general.sampling.{key}", kind, value)


def _architecture(model: Model) -> list[KeyValue]:
    return [
        KeyValue(f"{model.architecture.gguf}.{key.name}", key.type, model.fields[key.field])
        for key in model.architecture.keys
        if not key.optional or key.field in model.fields
    ]


def _tokenizer(vocabulary: Vocabulary | ByteLevelVocabulary, chat_template: str | None) -> list[KeyValue]:
    def id_(key: str, value: int | None) -> list[KeyValue]:
        return [] if value is None else [KeyValue(f"tokenizer.ggml.{key}_token_id", GGUFValueType.UINT32, value)]

    return [
        *_pieces(vocabulary),
        *id_("bos", vocabulary.bos),
        *id_("eos", vocabulary.eos),
        *id_("unknown", vocabulary.unknown),
        *id_("padding", vocabulary.padding),
        _switch("add_bos_token", vocabulary.add_bos),
        _switch("add_sep_token", False),
        _switch("add_eos_token", False),
        *([_text("tokenizer.chat_template", chat_template)] if chat_template else []),
        *([_switch("add_space_prefix", vocabulary.space_prefix)] if isinstance(vocabulary, Vocabulary) else []),
    ]


def _pieces(vocabulary: Vocabulary | ByteLevelVocabulary) -> list[KeyValue]:
    tokens = KeyValue("tokenizer.ggml.tokens", GGUFValueType.STRING, vocabulary.tokens)
    types = KeyValue("tokenizer.ggml.token_type", GGUFValueType.INT32, vocabulary.types)
    match vocabulary:
        case ByteLevelVocabulary():
            merges = [" ".join(pair) for pair in vocabulary.merges]
            return [
                _text("tokenizer.ggml.model", "gpt2"),
                _text("tokenizer.ggml.pre", vocabulary.pre),
                tokens,
                types,
                KeyValue("tokenizer.ggml.merges", GGUFValueType.STRING, merges),
            ]
        case Vocabulary():
            return [
                _text("tokenizer.ggml.model", "llama"),
                _text("tokenizer.ggml.pre", "default"),
                tokens,
                KeyValue("tokenizer.ggml.scores", GGUFValueType.FLOAT32, vocabulary.scores),
                types,
            ]


def _switch(key: str, on: bool) -> KeyValue:
    return KeyValue(f"tokenizer.ggml.{key}", GGUFValueType.BOOL, on)


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key, GGUFValueType.STRING, value)
