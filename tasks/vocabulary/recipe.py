"""What pruning is told, frozen, and part of the key under which its result is kept."""

from pydantic import BaseModel, ConfigDict, Field


class VocabularyRecipe(BaseModel):
    """Which tokens stay beside those of the labelled records, which always do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: int = Field(ge=0, description="commonest English words whose tokens are kept; 0 for none")
    minimum_count: int = Field(
        ge=1, description="how often the unlabelled texts, repeats aside, must use a token that is kept for them"
    )
