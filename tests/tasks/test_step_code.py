"""A step declares all the code that its result depends on, or an edit would go unseen."""

import ast
import importlib
from pathlib import Path

import pytest

from tasks import steps

_ROOT = Path(steps.__file__).parents[1]
_VERBS = [
    path for path in sorted((_ROOT / "tasks").glob("*.py")) if "@step(" in path.read_text() and path.stem != "steps"
]
# Plain types and stores, and the running of steps itself: they carry results and do not make them.
_CARRIERS = ("registry/", "tasks/steps.py", "tasks/records.py")


def source_of(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported_by(file: Path) -> set[Path]:
    """The files of this repository that ``file`` imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {source for name in names if (source := source_of(name))}


def code_behind(file: Path) -> set[str]:
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current not in seen and not current.relative_to(_ROOT).as_posix().startswith(_CARRIERS):
            seen.add(current)
            waiting += imported_by(current)
    return {path.relative_to(_ROOT).as_posix() for path in seen if path.stat().st_size}


def declared(names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for name in names:
        target = _ROOT / name
        assert target.exists(), f"{name} is declared and not there"
        files = [target] if target.is_file() else target.rglob("*.py")
        found |= {file.relative_to(_ROOT).as_posix() for file in files}
    return found


@pytest.mark.parametrize("verb", _VERBS, ids=lambda path: path.stem)
def test_a_step_declares_all_the_code_that_it_runs(verb: Path) -> None:
    importlib.import_module(f"tasks.{verb.stem}")
    assert code_behind(verb) <= declared(steps._FILES_OF[verb.stem])


def test_every_step_is_looked_at() -> None:
    assert {path.stem for path in _VERBS} >= {"check_data", "train_teacher", "export_gguf", "package_model"}
    assert {path.stem for path in _VERBS} == steps._FILES_OF.keys() & {path.stem for path in _VERBS}
