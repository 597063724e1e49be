"""The code behind a function is what its imports lead to: all of that, and nothing else."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry import code
from registry.code import code_behind

FILES = {
    "tasks/line.py": """
        import json
        from typing import TYPE_CHECKING

        from registry.models import log
        from tasks.kiln import heat
        from tasks.press import shape

        if TYPE_CHECKING:
            from tasks.typed import Clay

        LIMIT = 3

        def fired(clay: "Clay") -> str:
            log(clay)
            return _hot(clay)

        def _hot(clay):
            return heat(clay, LIMIT)

        def shaped(clay):
            return shape(json.dumps(clay))
        """,
    "tasks/typed.py": "class Clay: ...",
    "tasks/kiln/__init__.py": """
        import numpy
        from tasks.kiln.fire import burn

        def heat(clay, limit):
            return burn(clay)
        """,
    "tasks/kiln/fire.py": """
        def burn(clay):
            from tasks import fuel

            return fuel.FUEL + clay
        """,
    "tasks/fuel.py": "import nothing_of_the_kind\nFUEL = 'gas'",
    "tasks/press.py": """
        from importlib.resources import files

        def shape(clay):
            return files("tasks").joinpath("moulds", "brick.txt").read_text() + str(__file__) + "helper.py"
        """,
    "tasks/helper.py": "import gguf",
    "tasks/moulds/brick.txt": "brick",
    "tasks/other/brick.txt": "brick",
    "tasks/unused.py": "from tasks import press",
    "registry/models.py": "import mlflow\nfrom registry import store\nlog = print",
    "registry/store.py": "",
}
FIRED = {"tasks/line.py", "tasks/kiln/__init__.py", "tasks/kiln/fire.py", "tasks/fuel.py"}
SHAPED = {"tasks/line.py", "tasks/press.py", "tasks/helper.py", "tasks/moulds/brick.txt"}


class Repository:
    """A small one, with two functions in one file; its modules are read and never run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in FILES.items():
            self.write(name, textwrap.dedent(text))

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def function(self, name: str) -> Callable[..., Any]:
        space: dict[str, Any] = {}
        exec(compile(f"def {name}(): ...", str(self.root / "tasks" / "line.py"), "exec"), space)  # noqa: S102
        return space[name]

    def keys(self) -> dict[str, str]:
        return {name: code_behind(self.function(name)).key() for name in ("fired", "shaped")}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(code, "_ROOT", tmp_path)
    return Repository(tmp_path)


def test_the_files_are_those_that_imports_lead_to_at_the_top_and_in_functions(repository: Repository) -> None:
    assert set(code_behind(repository.function("fired")).files) == FIRED
    assert set(code_behind(repository.function("shaped")).files) == SHAPED


def test_libraries_count_where_they_are_used_and_installed(repository: Repository) -> None:
    assert set(code_behind(repository.function("fired")).versions) == {"numpy"}
    assert set(code_behind(repository.function("shaped")).versions) == {"gguf"}


def test_what_keeps_results_is_left_out_with_all_behind_it(repository: Repository) -> None:
    assert code_behind(repository.function("fired")).left_out == ("registry/models.py",)
    before = repository.keys()
    repository.edit("registry/models.py", "print", "repr")
    repository.write("registry/store.py", "rows = 1")
    assert repository.keys() == before


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("tasks/fuel.py", "gas", "wood", {"fired"}),
        ("tasks/kiln/__init__.py", "burn(clay)", "burn(clay * limit)", {"fired"}),
        ("tasks/helper.py", "import gguf", "import gguf\n", {"shaped"}),
        ("tasks/moulds/brick.txt", "brick", "tile", {"shaped"}),
        ("tasks/line.py", "LIMIT = 3", "LIMIT = 4", {"fired"}),
        ("tasks/line.py", "json.dumps(clay)", "json.dumps([clay])", {"shaped"}),
        ("tasks/line.py", "LIMIT = 3", "LIMIT = 3\nprint('loaded')", {"fired", "shaped"}),
        ("tasks/line.py", "def shaped(clay)", "def other(): ...\n\ndef shaped(clay)", set()),
        ("tasks/unused.py", "press", "kiln", set()),
        ("tasks/typed.py", "...", "size = 1", set()),
        ("tasks/other/brick.txt", "brick", "tile", set()),
    ],
)  # fmt: skip
def test_an_edit_changes_the_keys_of_those_that_it_reaches(
    repository: Repository, file: str, old: str, new: str, changed: set[str]
) -> None:
    before = repository.keys()
    repository.edit(file, old, new)
    after = repository.keys()
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_new_file_of_a_folder_that_is_read_counts(repository: Repository) -> None:
    before = repository.keys()
    repository.write("tasks/moulds/tile.txt", "tile")
    after = repository.keys()
    assert before["fired"] == after["fired"] and before["shaped"] != after["shaped"]


def test_imports_between_modules_of_each_other_come_to_an_end(repository: Repository) -> None:
    repository.write("tasks/fuel.py", "from tasks import line\nFUEL = 'gas'")
    assert set(code_behind(repository.function("fired")).files) == FIRED


def test_the_place_of_the_repository_does_not_matter(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = repository.keys()
    monkeypatch.setattr(code, "_ROOT", tmp_path / "moved")
    assert Repository(tmp_path / "moved").keys() == before
