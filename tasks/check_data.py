"""Hold a snapshot against the expectations before anything is trained on it."""

from data_checks.expectations import CheckReport, check_snapshot
from registry.models import stage_run
from registry.snapshots import Snapshot
from tasks.steps import Place, step


@step("data_checks", "tasks/check_data.py")
def check_data(snapshot: Snapshot, place: Place) -> CheckReport:
    """Great Expectations' verdict, its Data Docs logged as artifacts. Raises DataRefused where an expectation fails."""
    with stage_run(place.run_id, "data_checks") as log:
        docs = place.folder / "data_docs"
        place.folder.mkdir(parents=True, exist_ok=True)
        try:
            report = check_snapshot(snapshot.path, docs)
        finally:
            if docs.exists():
                log.log_artifact(docs, "data_docs")
        log.log_metrics({"expectations": len(report.expectations), "rows": sum(snapshot.rows.values())})
    return report
