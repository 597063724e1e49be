"""What an architecture's description consists of, and what follows from one for a single model.

An :class:`Architecture` says all that sets it apart: names on both sides, shapes, metadata keys, what its norms and its
rotary heads look like in a GGUF file. The rest of the house asks a :class:`Model` and knows no architecture.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from gguf.constants import GGUFValueType

from registry.errors import UsageError
from tasks.checkpoints.files import shown

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_TOP = {EMBEDDING: "token_embd.weight", OUTPUT: "output.weight", "model.norm.weight": "output_norm.weight"}
_FROM_TOP = {gguf: hf for hf, gguf in _TOP.items()}
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_GGUF_LAYER = re.compile(r"blk\.(\d+)\.(.+)")

Config = Mapping[str, Any]  # config.json
Fields = dict[str, Any]  # what a description takes from it, defaults filled in, under the names of config.json
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Key:
    """A number of the model under its GGUF name, less the architecture's prefix, and under that of ``Fields``.

    ``optional``: written only where the fields have it. ``default``: what llama.cpp takes where a file lacks it.
    ``zero``: 0 is a value too.
    """

    name: str
    field: str
    type: GGUFValueType = GGUFValueType.UINT32
    optional: bool = False
    default: float | None = None
    zero: bool = False


@dataclass(frozen=True)
class Layout:
    """How a file stores a tensor: its values plus ``offset``, times ``factor``, and each head's rows in the order of
    GGUF's rotation.

    ``head_rows`` above 1 is how many rows a head has. Hugging Face rotates the first half of them against the second,
    GGUF's llama every even row against the next, so the file holds rows 0, n / 2, 1, n / 2 + 1 and so on.
    """

    offset: float = 0.0
    factor: float = 1.0
    head_rows: int = 1

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Rows of the checkpoint, whole heads of them, as in the file."""
        if self.head_rows > 1:
            values = self._heads(values, 2, self.head_rows // 2)
        values = values + np.float32(self.offset) if self.offset else values
        return values * np.float32(self.factor) if self.factor != 1 else values

    def original(self, values: np.ndarray) -> np.ndarray:
        """Rows of the file, whole heads of them, as in the checkpoint."""
        if self.head_rows > 1:
            values = self._heads(values, self.head_rows // 2, 2)
        values = values / np.float32(self.factor) if self.factor != 1 else values
        return values - np.float32(self.offset) if self.offset else values

    def rows_at_once(self, wanted: int) -> int:
        """About ``wanted`` rows that are whole heads."""
        return max(self.head_rows, wanted - wanted % self.head_rows)

    @staticmethod
    def _heads(values: np.ndarray, outer: int, inner: int) -> np.ndarray:
        return values.reshape(-1, outer, inner, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The description of one architecture.

    Args:
        model_type: of config.json.
        gguf: general.architecture, and the prefix of the keys.
        tensors: of a layer, Hugging Face name -> GGUF name.
        shapes: the shapes of those that are no vector of the hidden size.
        keys: in upstream's order.
        fields: config.json checked and reduced; raises UsageError where llama.cpp would compute another function.
        config: the way back from fields; without what is the same for all.
        wrapper: model_type of the multimodal models whose text part this is.
        norm_offset: what the model adds to a norm's weight before it multiplies.
        norm_factors: norm of a layer -> what its weights are multiplied by, for llama.cpp to compute the same.
        rotated: tensor of a layer -> field with its number of heads, where GGUF orders the rows of a head otherwise.
        foreign_keys: parts of keys that change the function and, unless they are among ``keys``, are not read back.
    """

    model_type: str
    gguf: str
    causal_lm: str
    tensors: Mapping[str, str]
    shapes: Callable[[Fields], Mapping[str, Shape]]
    keys: tuple[Key, ...]
    fields: Callable[[Config], Fields]
    config: Callable[[Fields], dict[str, Any]]
    wrapper: str | None = None
    norm_offset: float = 0.0
    norm_factors: Callable[[Fields], Mapping[str, float]] = lambda _: {}
    rotated: Mapping[str, str] = field(default_factory=dict)
    foreign_keys: tuple[str, ...] = ("rope.scal", "sliding_window_pattern", "logit_softcapping", "attention.causal")

    @cached_property
    def _from_gguf(self) -> dict[str, str]:
        return {gguf: hf for hf, gguf in self.tensors.items()}

    def gguf_name(self, hf_name: str) -> str:
        """``model.layers.3.mlp.down_proj.weight`` -> ``blk.3.ffn_down.weight``.

        Raises UsageError for a name that the architecture does not have.
        """
        if hf_name in _TOP:
            return _TOP[hf_name]
        match = _HF_LAYER.fullmatch(hf_name)
        if match is None or match[2] not in self.tensors:
            raise UsageError(
                f"{shown(hf_name)} is no tensor of a {self.model_type} model; only those can be converted."
            )
        return f"blk.{match[1]}.{self.tensors[match[2]]}"

    def hf_name(self, gguf_name: str) -> str | None:
        """The way back; None for a name that the architecture does not have."""
        if gguf_name in _FROM_TOP:
            return _FROM_TOP[gguf_name]
        match = _GGUF_LAYER.fullmatch(gguf_name)
        if match is None or match[2] not in self._from_gguf:
            return None
        return f"model.layers.{match[1]}.{self._from_gguf[match[2]]}"


@dataclass(frozen=True)
class Model:
    """One model: its architecture and the fields of its config.json."""

    architecture: Architecture
    fields: Fields

    def gguf_name(self, hf_name: str) -> str:
        return self.architecture.gguf_name(hf_name)

    @property
    def tied(self) -> bool:
        """Whether the embedding is also the output matrix."""
        return self.fields["tie_word_embeddings"]

    @cached_property
    def tensor_shapes(self) -> dict[str, Shape]:
        """Hugging Face name -> shape of all tensors, in the order of the file."""
        embedding, hidden = (self.fields["vocab_size"], self.fields["hidden_size"]), (self.fields["hidden_size"],)
        shapes = self.architecture.shapes(self.fields)
        return {
            EMBEDDING: embedding,
            **({} if self.tied else {OUTPUT: embedding}),
            "model.norm.weight": hidden,
            **{
                f"model.layers.{layer}.{part}": shapes.get(part, hidden)
                for layer in range(self.fields["num_hidden_layers"])
                for part in self.architecture.tensors
            },
        }

    def layout(self, hf_name: str) -> Layout:
        """How the file stores a tensor."""
        match = _HF_LAYER.fullmatch(hf_name)
        if is_norm(hf_name):
            factors = self.architecture.norm_factors(self.fields)
            return Layout(offset=self.architecture.norm_offset, factor=factors.get(match[2], 1.0) if match else 1.0)
        heads = self.architecture.rotated.get(match[2]) if match else None
        return Layout(head_rows=self.tensor_shapes[hf_name][0] // self.fields[heads]) if heads else Layout()


def is_norm(name: str) -> bool:
    """Whether the tensor of this Hugging Face or GGUF name is a norm, which stays float32."""
    return name.endswith("norm.weight")
