"""The renderer against Go's own text/template, whose answers lie in go_template_cases.jsonl."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deployment.prompts.go_template import Struct, render
from registry.errors import UsageError

_HERE = Path(__file__).parent
_CASES = [json.loads(line) for line in (_HERE / "go_template_cases.jsonl").read_text(encoding="utf-8").splitlines()]
MESSAGES = [
    {"Role": "system", "Content": "S"},
    {"Role": "user", "Content": " hi <x> "},
    {"Role": "assistant", "Content": "ok\n"},
]
DATA: dict[str, Any] = {
    "Word": "abc",
    "Empty": "",
    "Yes": True,
    "No": False,
    "List": ["x", "y", "z"],
    "Nothing": [],
    "Map": {"b": "2", "a": "1"},
    "Odd": 'é <b>&"q" ☃',
    "Null": None,
    "Deep": {"In": {"er": "ok"}},
}


def rendered(template: str) -> str:
    return render(template, {**DATA, "Messages": [Struct(message) for message in MESSAGES]})


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["template"][:60])
def test_output_and_errors_are_those_of_go(case: dict[str, str]) -> None:
    if "output" in case:
        assert rendered(case["template"]) == case["output"]
    else:
        with pytest.raises(UsageError, match=r"^the Go template cannot be rendered: .*\.$"):
            rendered(case["template"])


@pytest.mark.live
def test_the_recorded_answers_are_those_of_the_go_that_is_installed(tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed; put `go` on the PATH")
    jobs = [{"Template": case["template"], "Data": DATA, "Messages": MESSAGES} for case in _CASES]
    found = subprocess.run(
        [go, "run", _HERE / "go_reference" / "main.go"],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": str(Path(go).parent), "HOME": str(tmp_path), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"},
    ).stdout
    for case, line in zip(_CASES, found.splitlines(), strict=True):
        answer = json.loads(line)
        assert answer.get("output") == case.get("output"), case["template"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ('{{ block "a" . }}{{ end }}', "block"),
        ('{{ printf "%d" 1 }}', "the function printf is not known"),
        ("{{ 1.5 }}", "holds what is not known"),
        ("{{ 'c' }}", "holds what is not known"),
        ("{{ .List }}", "a list is printed"),
        ("{{ .Map }}", "a map is printed"),
        ("{{ eq .Null .Word }}", "nothing and a text are compared"),
        ("{{ index .Messages 0 | json }}", "whose names only Ollama knows"),
        ("{{ range .List }}{{ range .Nothing }}{{ else }}{{ break }}{{ end }}{{ end }}", "break .* outside of a range"),
        ('{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}', "more than 100 deep"),
        ('{{ slice "é" 0 1 }}', "cuts a character in two"),
    ],
)
def test_what_go_renders_and_this_does_not_is_refused(template: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        rendered(template)


def test_a_number_in_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match="the data holds a int"):
        render("{{ .N }}", {"N": 1})
