"""The command line refuses names at once, before Prefect starts or anything is written."""

from pathlib import Path

import pytest
from command_line import Gemmill


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "{data}", "--dataset", "../../x"],
        ["ingest", "{data}", "--dataset", ""],
        ["due", "--dataset", "../x"],
        ["retrain", "--dataset", "plant/line7"],
        ["promote", "1", "--model-name", "../../evil"],
        ["rollback", "--model-name", "a'b"],
        ["deploy", "--model-name", ""],
        ["deploy", "--alias", "../champion"],
        ["evaluate", "models:/../../evil@champion", "--data", "{data}"],
    ],
)
def test_a_name_that_leaves_its_place_exits_with_2(
    arguments: list[str], gemmill: Gemmill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = tmp_path / "test.jsonl"
    data.write_text('{"command": "SG-1 leaks", "response": {"intent": "report_issue", "entities": {}}}\n')
    ran = gemmill(*(argument.format(data=data) for argument in arguments), "--home", tmp_path / "deep" / "er" / "home")
    ran.assert_refused(2, "is n")
    assert {path.name for path in tmp_path.iterdir()} <= {"test.jsonl", "deep"}
