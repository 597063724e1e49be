"""Settings of llama.cpp that may change how fast a device answers, by the name that bench_device knows them by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xllamacpp


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from a plain server: its parameters, and whether a request goes on from the prompt before it."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    cache_prompt: bool = False


def _speculative(kind: str, **parameters: int) -> Variant:
    """Drafts from n-grams seen before: of this command and its answer, or, with ``ngram_mod``, of earlier ones too."""
    number = xllamacpp.common_speculative_type[f"COMMON_SPECULATIVE_TYPE_{kind.upper()}"]
    return Variant(
        parameters={"speculative.types": [number]}
        | {f"speculative.{kind}.{name}": value for name, value in parameters.items()}
    )


_FLASH = xllamacpp.llama_flash_attn_type
_LOAD = xllamacpp.llama_load_mode
_TYPES = xllamacpp.ggml_type

VARIANTS = {
    "plain": Variant(),
    "prompt-cache": Variant(cache_prompt=True),
    "prompt-cache-swa-full": Variant(cache_prompt=True, parameters={"swa_full": True}),
    "ngram-simple": _speculative("ngram_simple", size_n=3, size_m=4),
    "ngram-mod": _speculative("ngram_mod", n_match=6, n_min=2, n_max=4),
    "no-flash-attention": Variant(parameters={"flash_attn_type": _FLASH.LLAMA_FLASH_ATTN_TYPE_DISABLED}),
    "small-batch": Variant(parameters={"n_batch": 32, "n_ubatch": 32}),
    "no-mmap": Variant(parameters={"load_mode": _LOAD.LLAMA_LOAD_MODE_NONE}),
    "mlock": Variant(parameters={"load_mode": _LOAD.LLAMA_LOAD_MODE_MMAP_MLOCK}),
    "no-repacking": Variant(parameters={"no_extra_bufts": True}),
    "kv-q8_0": Variant(parameters={"cache_type_k": _TYPES.GGML_TYPE_Q8_0, "cache_type_v": _TYPES.GGML_TYPE_Q8_0}),
}
