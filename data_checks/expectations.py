"""What must hold of a snapshot before anything is trained on it, checked by Great Expectations."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from data_checks.check_report import CheckedExpectation, CheckReport, SnapshotRefused
from data_checks.contract import Problem, read_jsonl
from data_checks.data_docs import make_readable_offline, write_index
from data_checks.refusals import LinesRefused
from data_checks.suites import SnapshotLimits, suites
from data_checks.tables import snapshot_tables
from registry.files import atomic_directory
from registry.records import SPLITS, Record, load_label_set

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

_SITE = "data_docs"
_EXAMPLES = 3  # offending values named in a report


def check_snapshot(snapshot: Path, docs: Path, limits: SnapshotLimits | None = None) -> CheckReport:
    """Check the folder of a snapshot and write Data Docs, readable without a network, to the folder ``docs``.

    Raises SnapshotRefused where an expectation fails, after the docs are written; LinesRefused where a line
    is no record of the contract.
    """
    labels, records = load_label_set(snapshot / "labels.toml"), _read(snapshot)
    trained = sorted({record.response.intent for record in records["train"]})
    with atomic_directory(docs) as folder:
        checks = _validate(snapshot_tables(records), suites(labels, trained, limits or SnapshotLimits()), folder)
        make_readable_offline(folder)
        write_index(folder, checks, title=f"Snapshot {snapshot.name}")
    found = [check for suite in checks.values() for check in suite]
    report = CheckReport(passed=all(check.passed for check in found), expectations=found, data_docs=docs / "index.html")
    if not report.passed:
        raise SnapshotRefused(snapshot, report)
    return report


def _read(snapshot: Path) -> dict[str, list[Record]]:
    """The records of every split, by the contract but not yet by the label set."""
    records: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    for split in SPLITS:
        records[split], bad = read_jsonl(snapshot / f"{split}.jsonl")
        problems += bad
    if problems:
        raise LinesRefused(problems)
    return records


def _validate(
    tables: "Mapping[str, pd.DataFrame]", expected: "Mapping[str, list[Expectation]]", docs: Path
) -> dict[str, list[CheckedExpectation]]:
    """The verdict on each suite, with Great Expectations' pages about it in ``docs``."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when it is imported
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    context = _context(docs)
    assets = context.data_sources.add_pandas("snapshot")
    found: dict[str, list[CheckedExpectation]] = {}
    for name, expectations in expected.items():
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        whole = assets.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=whole, suite=suite))
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name=name,
                validation_definitions=[definition],
                actions=[UpdateDataDocsAction(name="data docs", site_names=[_SITE])],
                result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["command"]},
            )
        )
        run = checkpoint.run(batch_parameters={"dataframe": tables[name]})
        found[name] = [_checked(result) for results in run.run_results.values() for result in results.results]
    return found


def _context(docs: Path) -> "AbstractDataContext":
    """A context that lives in memory and writes to ``docs`` only."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites={_SITE: site},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    return gx.get_context(project_config=config, mode="ephemeral")


def _checked(result: "ExpectationValidationResult") -> CheckedExpectation:
    told = cast("ExpectationConfiguration", result.expectation_config).meta or {}
    return CheckedExpectation(
        name=told["name"],
        passed=bool(result.success),
        observed=_observed(result.result),
        expected=told["expected"],
    )


def _observed(result: Mapping[str, Any]) -> str:
    """What was seen: a figure, or how many rows break the expectation and some of them."""
    if "unexpected_count" not in result:
        value = result.get("observed_value")
        return "there" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    seen = f"{result['unexpected_count']} of {result['element_count']} rows break it"
    examples = dict.fromkeys(item["command"] for item in result.get("partial_unexpected_index_list") or [])
    named = ", ".join(repr(command) for command in list(examples)[:_EXAMPLES])
    return f"{seen}: {named}" if named else seen
