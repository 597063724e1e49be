"""What a tensor of a checkpoint is called, whatever wrapped the model that was saved: one rule for every command.

Wrapping says nothing of the weights: torch.compile puts ``_orig_mod.`` into names, DataParallel ``module.`` before
them. Of a multimodal model only the text part is of use here, so its tensors get the names of a model of text alone.
"""

from collections.abc import Callable

from tasks.checkpoints.architectures import ARCHITECTURES, Config, is_other_part, text_name

Rename = Callable[[str], str | None]
_COMPILED, _PARALLEL = "_orig_mod", "module"
_BUFFER = "rotary_emb.inv_freq"  # follows from config.json; old checkpoints store it all the same


def is_described(config: Config) -> bool:
    """Whether the model of this config.json is of an architecture whose tensors are known here."""
    return any(config.get("model_type") in (known.model_type, known.wrapper) for known in ARCHITECTURES)


def unwrapped(name: str) -> str:
    """``module._orig_mod.model.norm.weight`` -> ``model.norm.weight``."""
    parts = [part for part in name.split(".") if part != _COMPILED]
    while len(parts) > 1 and parts[0] == _PARALLEL:
        parts.pop(0)
    return ".".join(parts)


def naming(config: Config, *, all_parts: bool = False) -> Rename:
    """The name that each tensor of a folder with this config.json goes by.

    None for a buffer and, unless ``all_parts``, for what a multimodal model has beside its text part.
    """
    described = is_described(config)
    multimodal = any(config.get("model_type") == known.wrapper is not None for known in ARCHITECTURES)

    def name_of(stored: str) -> str | None:
        name = unwrapped(stored)
        if name.endswith(_BUFFER):
            return None
        if multimodal and not all_parts and is_other_part(name):
            return None
        return text_name(name) if described else name

    return name_of
