"""Has training grown a norm outlier, or did it come with the base?

Gemma's base checkpoints carry norm gains above a thousand, so a constant limit says nothing. Gains are
compared channel by channel with a baseline's: ``ratio = |candidate| / max(|baseline|, median |baseline| of
the tensor)``. The median keeps a channel that was nearly zero from counting while it stays within what is
typical of its tensor.
"""

import math
from enum import StrEnum

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.forensics.statistics import ModelStatistics, NormGains
from tasks.forensics.streaming import outlying

RATIO_MAX = 1.5  # a full fine-tune of the 270M base has 1.01; a norm trained from 1 on can reach 2


class Change(StrEnum):
    """What became of a norm tensor's gains."""

    INHERITED = "inherited"  # no channel's ratio is above the limit
    GROWN = "grown"  # a channel's ratio is
    NEW = "new"  # as grown, and the channel was no outlier in the baseline but is one now
    SHRUNK = "shrunk"  # nothing grew, and the largest gain fell by more than the limit
    UNMATCHED = "unmatched"  # the other model has no such norm, or one of another width
    BROKEN = "broken"  # NaN or infinity


class NormChange(BaseModel):
    """One norm tensor, candidate against baseline.

    ``gain`` and ``baseline_gain`` are those of ``channel``, the one with the largest ratio; these four are
    None where the tensor is unmatched or broken.
    """

    model_config = ConfigDict(frozen=True)

    tensor: str
    change: Change
    max_gain: float | None
    baseline_max_gain: float | None
    ratio: float | None = None
    channel: int | None = None
    gain: float | None = None
    baseline_gain: float | None = None


class OutlierComparison(BaseModel):
    """Every norm of a candidate against a baseline.

    ``nonfinite`` names the candidate's tensors, of any kind, that hold NaN or infinity.
    """

    model_config = ConfigDict(frozen=True)

    candidate: str
    baseline: str
    ratio_max: float
    norms: tuple[NormChange, ...]
    nonfinite: tuple[str, ...] = ()

    @property
    def worst(self) -> NormChange | None:
        """The norm with the largest ratio, one without a ratio before all; None where there are no norms."""
        return max(self.norms, key=lambda norm: math.inf if norm.ratio is None else norm.ratio, default=None)

    @property
    def passed(self) -> bool:
        """True where all is finite, there are norms to judge, and each is inherited or shrunk."""
        return self.within(self.ratio_max)

    def within(self, ratio_max: float) -> bool:
        """``passed``, judged by another limit than the one of the labels."""
        worst = self.worst
        return not self.nonfinite and worst is not None and worst.ratio is not None and worst.ratio <= ratio_max

    @property
    def disjoint(self) -> bool:
        """Whether the two models share no norm of the same width, as those of different architectures do."""
        return bool(self.norms) and all(norm.change is Change.UNMATCHED for norm in self.norms)

    @property
    def largest(self) -> NormChange | None:
        """The norm with the candidate's largest gain; None where there are no norms."""
        return max(self.norms, key=lambda norm: norm.max_gain or 0.0, default=None)

    def finding(self) -> str:
        """The outcome in one sentence without a full stop."""
        if self.nonfinite:
            return f"NaN or infinity in {len(self.nonfinite)} tensors, {self.nonfinite[0]} first"
        worst, largest = self.worst, self.largest
        if worst is None or largest is None:
            return "there are no norms to compare"
        name = worst.tensor.removesuffix(".weight")
        if worst.ratio is None:
            return f"{name} is {worst.change}: not there, of another width or not finite in one of the two"
        if worst.ratio > self.ratio_max:
            return (
                f"{name} is {worst.change}: gain {worst.gain:.6g} in channel {worst.channel} where it was "
                f"{worst.baseline_gain:.6g}, ×{worst.ratio:.3g}"
            )
        return (
            f"the largest gain, {largest.max_gain:.6g} in {largest.tensor.removesuffix('.weight')}, is "
            f"{largest.change} ({largest.baseline_max_gain:.6g}); none grew beyond ×{worst.ratio:.3g}"
        )


def compare_outliers(
    candidate: ModelStatistics, baseline: ModelStatistics, *, ratio_max: float = RATIO_MAX
) -> OutlierComparison:
    """Compare the norm gains of ``candidate`` with those of ``baseline``, channel by channel.

    Layers that one of the two was made without are left out.
    """
    dropped = _dropped_layers(candidate, baseline)
    ours, theirs = (
        {norm.name: norm.gains for norm in model.norms if norm.layer not in dropped} for model in (candidate, baseline)
    )
    return OutlierComparison(
        candidate=candidate.model,
        baseline=baseline.model,
        ratio_max=ratio_max,
        norms=tuple(_change(name, ours.get(name), theirs.get(name), ratio_max) for name in {**ours, **theirs}),
        nonfinite=tuple(tensor.name for tensor in candidate.tensors if tensor.nonfinite),
    )


def _dropped_layers(*models: ModelStatistics) -> set[int]:
    layers = [{tensor.layer for tensor in model.tensors if tensor.layer is not None} for model in models]
    known = [own for own, model in zip(layers, models, strict=True) if model.base_layers]
    return {layer for own in known for layer in set().union(*layers) - own}


def _change(name: str, ours: NormGains | None, theirs: NormGains | None, ratio_max: float) -> NormChange:
    change = NormChange(
        tensor=name,
        change=Change.UNMATCHED,
        max_gain=ours.max_abs if ours else None,
        baseline_max_gain=theirs.max_abs if theirs else None,
    )
    if ours is None or theirs is None or len(ours.values) != len(theirs.values):
        return change
    after, before = np.abs(ours.values), np.abs(theirs.values)
    if not (np.isfinite(after).all() and np.isfinite(before).all()):
        return change.model_copy(update={"change": Change.BROKEN})
    ratios = after / np.maximum(before, theirs.median_abs or 1.0)  # 1 is the gain of an untrained norm
    channel = int(np.argmax(ratios))
    if ratios[channel] > ratio_max:
        is_new = outlying(after)[channel] and not outlying(before)[channel]
        kind = Change.NEW if is_new else Change.GROWN
    else:
        kind = Change.SHRUNK if ours.max_abs * ratio_max < theirs.max_abs else Change.INHERITED
    return change.model_copy(
        update={
            "change": kind,
            "ratio": float(ratios[channel]),
            "channel": channel,
            "gain": ours.values[channel],
            "baseline_gain": theirs.values[channel],
        }
    )
