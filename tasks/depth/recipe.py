"""What depth pruning is told, frozen, and part of the key under which its result is kept."""

from pydantic import BaseModel, ConfigDict, Field


class DepthRecipe(BaseModel):
    """How deep the student is; which layers stay is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(ge=1, description="decoder layers that stay")
