"""What the training rows show of a plant's answers, and so what every answer must keep to: ``answers.json``."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployment.answers.doubt import Doubt
from deployment.answers.spans import Form, span_of
from registry.errors import UsageError, validation_message
from registry.records import MAX_VALUE, MAX_VALUES, LabelSet, Record, Response

FILE_NAME = "answers.json"
GROUNDED_MIN = 0.98
_ROOM = 2  # an answer may take twice of what was seen in training
_Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TypeRules(BaseModel):
    """One entity type: whether its values stand in the command, and how long and how many they may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form | None = Field(description="how its values stand in the command; null: they are free")
    grounded: _Share = Field(description="of its values in the training rows, in that form or the best one")
    longest: int = Field(ge=1, le=MAX_VALUE, description="characters of a value")
    most: int = Field(ge=1, le=MAX_VALUES, description="values in one answer")
    repeats: bool = Field(default=False, description="whether a training row has one value twice")


class AnswerRules(BaseModel):
    """The rules of all entity types, learnt from training rows by :func:`learn_rules`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    types: dict[str, TypeRules]
    shared: tuple[tuple[str, str], ...] = Field(
        default=(), description="pairs of types that have the same value in a training row"
    )
    doubt: Doubt | None = Field(default=None, description="how sure grounded answers are; null: it was not calibrated")

    @property
    def free(self) -> list[str]:
        """Types whose values need not stand in the command."""
        return [name for name, rules in self.types.items() if rules.form is None]

    def may_repeat(self, one: str, other: str) -> bool:
        """Whether a value of type ``one`` may come again as one of type ``other`` in the same answer."""
        return self.types[one].repeats if one == other else (one, other) in self.shared or (other, one) in self.shared


def learn_rules(records: Sequence[Record], labels: LabelSet, *, grounded_min: float = GROUNDED_MIN) -> AnswerRules:
    """The rules that ``records`` keep to. A type is grounded where ``grounded_min`` of its values stand in the command.

    A type without any value is grounded as it is.
    """
    return AnswerRules(
        types={name: _type_rules(name, records, grounded_min) for name in labels.entities},
        shared=tuple(_shared(record.response for record in records)),
    )


def default_rules(labels: LabelSet) -> AnswerRules:
    """For a model whose training rows are not known: every value stands in the command, none twice."""
    return learn_rules([], labels)


def read_rules(path: Path, labels: LabelSet) -> AnswerRules:
    """The rules in ``path``. Raises UsageError where they cannot be read or are not of ``labels``."""
    try:
        rules = AnswerRules.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {validation_message(error)}; build the package again.") from error
    if missing := ", ".join(labels.entities.keys() ^ rules.types.keys()):
        raise UsageError(f"{path} and its label set differ in {missing}; build the package again.")
    return rules


def _type_rules(name: str, records: Sequence[Record], grounded_min: float) -> TypeRules:
    rows = [(record.command, _values(record.response, name)) for record in records if name in record.response.entities]
    values = [(command, value) for command, found in rows for value in found]
    if not values:
        return TypeRules(form=Form.EXACT, grounded=1.0, longest=MAX_VALUE, most=MAX_VALUES)
    shares = {
        form: sum(span_of(value, form.of(command)) is not None for command, value in values) / len(values)
        for form in Form
    }
    best = max(shares, key=lambda form: shares[form])
    form = next((form for form in Form if shares[form] >= grounded_min), None)
    return TypeRules(
        form=form,
        grounded=shares[form or best],
        longest=min(_ROOM * max(len(value) for _, value in values), MAX_VALUE),
        most=min(_ROOM * max(len(found) for _, found in rows), MAX_VALUES),
        repeats=any(len(set(found)) < len(found) for _, found in rows),
    )


def _shared(responses: Iterable[Response]) -> list[tuple[str, str]]:
    pairs: Counter[tuple[str, str]] = Counter()
    for response in responses:
        sets = {name: set(_values(response, name)) for name in sorted(response.entities)}
        pairs.update(pair for pair in combinations(sets, 2) if sets[pair[0]] & sets[pair[1]])
    return sorted(pairs)


def _values(response: Response, name: str) -> list[str]:
    value = response.entities[name]
    return [value] if isinstance(value, str) else value
