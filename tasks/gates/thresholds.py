"""The floors and tolerances that a candidate must keep: the table ``[gates]`` of a profile."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tasks.forensics.comparison import RATIO_MAX

MAX_DROP = 0.01
_Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Floors(BaseModel):
    """What is asked of answers, as shares between 0 and 1 of the test rows.

    A floor of 0 still asks that the metric was measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    json_validity_min: _Share
    intent_accuracy_min: _Share
    exact_match_min: _Share
    entity_f1_min: _Share
    oos_recall_min: _Share
    oos_precision_min: _Share
    max_drop: _Share = Field(default=MAX_DROP, description="how far any of the six may fall below the champion's")

    def floors(self) -> dict[str, float]:
        """Metric name -> absolute floor."""
        return {name: getattr(self, f"{name}_min") for name in self.metrics()}

    @classmethod
    def metrics(cls) -> list[str]:
        """The metrics that have a floor."""
        return [name.removesuffix("_min") for name in cls.model_fields if name.endswith("_min")]


class Thresholds(Floors):
    """What is asked of a candidate: of its free answers, of its grounded ones, and of its weights."""

    grounded: Floors | None = Field(default=None, description="the same of grounded answers; nothing without it")
    norm_outlier_ratio_max: float = Field(
        default=RATIO_MAX,
        gt=1.0,
        description="how many times its baseline's a norm gain may be, channel by channel",
    )
