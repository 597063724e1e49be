"""The expectations about a snapshot's tables, as Great Expectations suites."""

# pyright: reportPrivateImportUsage=false
# The namespace that Great Expectations documents for expectations has no __all__.
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from registry.records import MAX_COMMAND, OUT_OF_SCOPE, SPLITS, LabelSet

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


class SnapshotLimits(BaseModel):
    """What a plant may set about its snapshots."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_train: int = Field(default=100, ge=1)
    minimum_validation: int = Field(default=10, ge=1)
    minimum_test: int = Field(default=30, ge=1, description="with fewer rows a gate sees nothing but chance")
    minimum_out_of_scope: float = Field(
        default=0.05, ge=0, le=1, description="share of train; a model that saw none never refuses"
    )
    maximum_out_of_scope: float = Field(default=0.8, ge=0, le=1, description="share of train")
    minimum_in_command: float = Field(
        default=0.95, ge=0, le=1, description="share of entity values that stand in their command, letter case aside"
    )


def suites(labels: LabelSet, train_intents: list[str], limits: SnapshotLimits) -> "dict[str, list[Expectation]]":
    """The expectations about each table of :func:`data_checks.tables.snapshot_tables`.

    ``meta`` of each holds a ``name`` and what is ``expected``, for reports.
    """
    return {
        "records": [*_sound_records(labels, train_intents), *_sizes(limits)],
        "commands": _unique_commands(),
        "entities": _sound_entities(labels, limits),
    }


def _sound_records(labels: LabelSet, train_intents: list[str]) -> "list[Expectation]":
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    columns = ("split", "command", "intent")
    return [
        *(gxe.ExpectColumnToExist(column=name, **_told(f"column {name}", "there")) for name in columns),
        *(
            gxe.ExpectColumnValuesToNotBeNull(column=name, **_told(f"{name} is given", "in every row"))
            for name in columns
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="split", value_set=list(SPLITS), **_told("split is known", "one of " + ", ".join(SPLITS))
        ),
        gxe.ExpectColumnValueLengthsToBeBetween(
            column="command",
            min_value=1,
            max_value=MAX_COMMAND,
            **_told("length of command", f"1 to {MAX_COMMAND} characters"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="intent",
            value_set=list(labels.intents),
            **_told("intent is in the label set", f"one of {len(labels.intents)} intents"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="intent",
            value_set=train_intents,
            row_condition=Column("split") == "test",
            **_told("intent of a test row was trained", "an intent of a training row"),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="entity_values",
            max_value=0,
            row_condition=Column("intent") == OUT_OF_SCOPE,
            **_told("out_of_scope has no entities", "0 entities"),
        ),
    ]


def _sizes(limits: SnapshotLimits) -> "list[Expectation]":
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    minimum = {
        "train": limits.minimum_train,
        "validation": limits.minimum_validation,
        "test": limits.minimum_test,
    }
    low, high = limits.minimum_out_of_scope, limits.maximum_out_of_scope
    return [
        *(
            gxe.ExpectTableRowCountToBeBetween(
                min_value=rows,
                row_condition=Column("split") == split,
                **_told(f"rows of {split}", f"{rows} or more"),
            )
            for split, rows in minimum.items()
        ),
        gxe.ExpectColumnMeanToBeBetween(
            column="is_out_of_scope",
            min_value=low,
            max_value=high,
            row_condition=Column("split") == "train",
            **_told("share of out_of_scope in train", f"{low} to {high}"),
        ),
    ]


def _unique_commands() -> "list[Expectation]":
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="splits", max_value=1, **_told("no command in two splits", "1 split for each command")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="answers", max_value=1, **_told("no command with two answers", "1 answer for each command")
        ),
    ]


def _sound_entities(labels: LabelSet, limits: SnapshotLimits) -> "list[Expectation]":
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeInSet(
            column="entity_type",
            value_set=list(labels.entities),
            **_told("entity type is in the label set", f"one of {len(labels.entities)} entity types"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="in_command",
            value_set=[True],
            mostly=limits.minimum_in_command,
            **_told(
                "entity value stands in the command",
                f"at least {limits.minimum_in_command:.0%} of the values",
            ),
        ),
    ]


def _told(name: str, expected: str) -> dict[str, Any]:
    """What reports and Data Docs call an expectation."""
    return {"description": f"{name}: {expected}", "meta": {"name": name, "expected": expected}}
