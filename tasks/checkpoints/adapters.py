"""The tensors of a PEFT LoRA by the names of its base, and whether they are all of what its config asks for.

PEFT itself only warns where half of an adapter is missing, and goes on with matrices that change nothing.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from registry.errors import UsageError
from tasks.checkpoints.architectures import EMBEDDING, Config
from tasks.checkpoints.files import read_json, shown
from tasks.checkpoints.folders import ADAPTER_CONFIG_FILE, CONFIG_FILE, has_tokenizer, is_adapter
from tasks.checkpoints.hub import model_path
from tasks.checkpoints.names import is_described, naming, unwrapped
from tasks.checkpoints.whole import Shape

PEFT_PREFIX = "base_model.model."  # before the name in the base
_LORA = re.compile(r"(.+)\.(lora_[AB]\.weight|lora_embedding_[AB])")
_PAIRS = ({"lora_A.weight", "lora_B.weight"}, {"lora_embedding_A", "lora_embedding_B"})
_OUTPUT = "lm_head"
_ALL_LINEAR, _NOT_AMONG_THEM = "all-linear", (_OUTPUT, EMBEDDING.removesuffix(".weight"))
_NESTED = "language_model"
_TEXT, _MULTIMODAL = "model.", ("model.language_model.", "language_model.model.")  # how a text part's layers begin


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json. Raises UsageError where it is unsound."""
    config = read_json(folder / ADAPTER_CONFIG_FILE)
    if not isinstance(config.get("peft_type"), str):
        raise UsageError(f"{folder} has no peft_type in its {ADAPTER_CONFIG_FILE}; save the adapter again.")
    return config


def is_lora(config: Mapping[str, Any]) -> bool:
    return config.get("peft_type") == "LORA"


def base_of(adapter: Path) -> Path:
    """The folder of the base that an adapter names, from the hub's cache if it is a hub id."""
    config = read_adapter_config(adapter)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    base = model_path(name, revision or "main") if isinstance(name, str) and name else None
    if base is None or not (base / CONFIG_FILE).is_file():
        raise UsageError(
            f"the base of {adapter} is {shown(name)}, which is no Hugging Face folder here; set "
            f"base_model_name_or_path in its {ADAPTER_CONFIG_FILE}."
        )
    return base


def tokenizer_folder(folder: Path) -> Path:
    """The folder whose tokenizer is that of a model: its own or, of an adapter without one, its base's."""
    return base_of(folder) if is_adapter(folder) and not has_tokenizer(folder) else folder


def adapter_names(folder: Path, stored: Iterable[str], base: Config) -> dict[str, str]:
    """The name in the base for each tensor of an adapter over a model of this config.json; without PEFT's prefix.

    Tensors of what a multimodal base has beside its text part are left out. Raises UsageError where one name is there
    twice.
    """
    name_of = naming(base)
    names: dict[str, str] = {}
    for name in stored:
        plain = name_of(unwrapped(name).removeprefix(PEFT_PREFIX))
        if plain in names.values():
            raise UsageError(f"{folder} has {plain} under two names, {shown(name)} among them; save the adapter again.")
        if plain is not None:
            names[name] = plain
    return names


def renamed_patterns(folder: Path, patterns: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """The keys of ``alpha_pattern`` or ``rank_pattern`` with the names of modules as :func:`adapter_names` gives them.

    Raises UsageError where a key names modules of a text part in a way that cannot be told.
    """
    name_of = naming(base, all_parts=True)
    renamed = {name_of(pattern) or pattern: value for pattern, value in patterns.items()}
    if is_described(base) and (unclear := [pattern for pattern in renamed if _NESTED in pattern]):
        raise UsageError(f"{folder} gives a module {shown(unclear[0])} its own scale; merge the adapter into its base.")
    return renamed


def require_whole_lora(
    folder: Path, config: Mapping[str, Any], found: Mapping[str, Shape], matrices: Mapping[str, Shape]
) -> set[str]:
    """The modules that a LoRA changes.

    Args:
        config: of the adapter.
        found: the shapes of its tensors by the names that :func:`adapter_names` gives them.
        matrices: of the base, by the names of their modules.

    Raises:
        UsageError: a matrix is without its other half or has another shape, a module of ``target_modules`` without
            both, or a module has them that is not among those.
    """
    changed = require_pairs(folder, found)
    if config.get("target_modules") is not None:  # else PEFT's own choice, which depends on its version
        _require_targets(folder, config, changed, matrices)
    for module in sorted(changed & matrices.keys()):
        _require_shapes(folder, config, module, found, matrices[module])
    return changed


def _require_targets(folder: Path, config: Mapping[str, Any], changed: set[str], modules: Iterable[str]) -> None:
    try:
        targets = {module for module in modules if is_target(config, module)}
    except (re.error, TypeError) as error:
        raise UsageError(
            f"{folder} has target_modules = {shown(config['target_modules'])}, which name no modules: {error}."
        ) from error
    if foreign := sorted(changed - targets):
        raise UsageError(
            f"{folder} changes {foreign[0]}, which is not among the modules of its base that its target_modules name; "
            "is that its base?"
        )
    if lacking := sorted(targets - changed):
        raise UsageError(
            f"{folder} lacks the LoRA matrices of {len(lacking)} of the {len(targets)} modules that its target_modules "
            f"name, {lacking[0]} among them; save the adapter again."
        )


def _require_shapes(
    folder: Path, config: Mapping[str, Any], module: str, found: Mapping[str, Shape], matrix: Shape
) -> None:
    """Raises UsageError unless B times A has the shape of ``matrix``."""
    kind = "lora_{}.weight" if f"{module}.lora_A.weight" in found else "lora_embedding_{}"
    down, up = (found[f"{module}.{kind.format(side)}"] for side in "AB")
    embeds = kind.startswith("lora_embedding") or bool(config.get("fan_in_fan_out"))
    rows, columns = reversed(matrix) if embeds else matrix
    if (down[1:], up) != ((columns,), (rows, down[0])):
        raise UsageError(
            f"{folder} has LoRA matrices of {module} in the shapes {down} and {up}, which do not make one of {rows} × "
            f"{columns}; is that the adapter's base?"
        )


def matrices_of(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The modules of a base that hold a matrix, by the shapes of its tensors; the output too where it is tied."""
    found = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 2}
    tied = found.get(EMBEDDING.removesuffix(".weight"))
    return {**({_OUTPUT: tied} if tied else {}), **found}


def require_pairs(folder: Path, names: Iterable[str]) -> set[str]:
    """The modules with a LoRA matrix. Raises UsageError where there are none, or one lacks its other half."""
    found: dict[str, set[str]] = {}
    for name in names:
        if match := _LORA.fullmatch(name):
            found.setdefault(match[1], set()).add(match[2])
    if not found:
        raise UsageError(f"{folder} holds no LoRA matrix of its base; save the adapter again.")
    for module, sides in sorted(found.items()):
        if sides not in _PAIRS:
            raise UsageError(
                f"{folder} has {' and '.join(sorted(sides))} of {module} where a pair belongs; save the adapter again."
            )
    return set(found)


def is_target(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT adapts the module of this name, however a multimodal model spells it."""
    spellings = [module]
    if module.startswith(_TEXT):
        spellings += [f"{begin}{module.removeprefix(_TEXT)}" for begin in _MULTIMODAL]
    if any(_matches(config.get("exclude_modules") or (), name) for name in spellings):
        return False
    saved = config.get("modules_to_save") or ()
    if any(re.match(rf"(^|.*\.){part}($|\..*)", name) for part in saved for name in spellings):
        return False
    return any(_is_target(config, name) for name in spellings)


def _is_target(config: Mapping[str, Any], name: str) -> bool:
    """After PEFT's ``check_target_module_exists``."""
    targets = config["target_modules"]
    if isinstance(targets, str) and targets.lower() == _ALL_LINEAR:
        return name not in _NOT_AMONG_THEM
    if isinstance(targets, str) or name in targets:
        return _matches(targets, name)
    return _matches(targets, name) and _in_layers(config, name)


def _matches(wanted: str | Iterable[str], name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == part or name.endswith(f".{part}") for part in wanted)


def _in_layers(config: Mapping[str, Any], name: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name):
            return int(match[1]) in ([layers] if isinstance(layers, int) else layers)
    return False
