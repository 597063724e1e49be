"""A retrain is an MLflow run with its stages below it and its data as inputs."""

from pathlib import Path

import pytest
from registered import snapshot_in

from registry import models
from registry.tracking.client import connection


def test_a_stage_is_a_run_nested_below_the_retrain(home: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>fine</p>")
    params = {"distill": {"temperature": 2.0, "layers": [1, 2]}}
    with models.retrain_run("tiny", params=params) as run, models.stage_run(run.run_id, "student") as stage:
        stage.log_params({"lr": 2e-4})
        for step in range(1200):
            stage.log_metric("loss", 1 / (step + 1), step)
        stage.log_artifact(tmp_path / "report.html", "reports")
        stage.log_artifact(tmp_path, "everything")
    client = connection().client
    parent, child = client.get_run(run.run_id), client.get_run(stage.run_id)
    assert parent.data.params == {"distill.temperature": "2.0", "distill.layers": "[1, 2]"}
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    assert child.data.params == {"lr": "0.0002"}
    assert len(client.get_metric_history(stage.run_id, "loss")) == 1200
    assert [item.path for item in client.list_artifacts(stage.run_id, "reports")] == ["reports/report.html"]
    assert [item.path for item in client.list_artifacts(stage.run_id, "everything")] == ["everything/report.html"]
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")


def test_more_settings_than_one_request_holds_are_all_logged(home: Path) -> None:
    with models.retrain_run("tiny", params={f"p{index}": index for index in range(250)}) as run:
        pass
    assert len(connection().client.get_run(run.run_id).data.params) == 250


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_ends_with_an_error_says_so_and_keeps_its_metrics(
    home: Path, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), models.retrain_run("tiny", tags={"profile": "tiny"}) as run:
        run.log_metric("loss", 1.0)
        raise error("the norm of layer 16")
    found = connection().client.get_run(run.run_id)
    assert found.info.status == status
    assert found.data.tags["error"] == f"{error.__name__}: the norm of layer 16"
    assert found.data.metrics == {"loss": 1.0}


def test_the_snapshot_is_the_input_of_its_run(home: Path, tmp_path: Path, recwarn) -> None:
    with models.retrain_run("tiny") as run:
        models.log_snapshot(run.run_id, snapshot_in(tmp_path / "snapshot", "Leak\u2028at\x85SG-402"))
    inputs = connection().client.get_run(run.run_id).inputs.dataset_inputs
    assert sorted((item.dataset.name, item.dataset.digest, item.tags[0].value) for item in inputs) == [
        ("plant.test", "0123456789ab", "testing"),
        ("plant.train", "0123456789ab", "training"),
        ("plant.validation", "0123456789ab", "validation"),
    ]
    assert not [str(warning.message) for warning in recwarn if "mlflow" in str(warning.filename)]
