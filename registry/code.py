"""The code and the libraries that a function's result depends on, found by following imports.

Of the function's own file those definitions count that it reaches, so that two steps in one file keep apart. Every
other module counts whole: with the packages that it lies in, the files that it names where it asks for its own place,
and all that it imports in turn, at the top or inside a function. What is imported for its types only does not count,
nor does what keeps results or runs steps, which is known by its importing MLflow or Prefect.
"""

import ast
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[1]
_PACKAGES = {"data_checks", "deployment", "flows", "registry", "tasks"}
_KEEPERS = {"mlflow", "prefect"}
_IDLE = {"pydantic", "rich", "yaml"}  # check what comes in, draw progress, name an error: no result is theirs
_BENEATH = {"transformers": ("tokenizers",)}  # what does the work of a library that code of ours imports
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class _Source(NamedTuple):
    """What one file says, read once for each of its states."""

    text: str
    digest: str
    imports: frozenset[str]  # dotted names, of modules and of what may be one
    beside: frozenset[str]  # strings that may name files, where the module asks for its own place


class Code(NamedTuple):
    """What a result depends on beside its inputs; ``digest`` and ``versions`` are for a key."""

    digest: str
    files: tuple[str, ...]  # relative to the repository, the function's own among them
    versions: dict[str, str]  # by distribution
    left_out: tuple[str, ...]  # modules that keep results or run steps

    def key(self) -> str:
        """64 hex digits of all of it."""
        return hashlib.sha256(json.dumps([self.digest, self.versions], sort_keys=True).encode()).hexdigest()


def code_behind(*starts: Callable[..., Any]) -> Code:
    """The code of functions or classes, wherever they lie, and of all in this repository that they use."""
    digest, own, left_out, imports = hashlib.sha256(), set[Path](), set[Path](), set[str]()
    for start in starts:
        file = Path(inspect.getfile(inspect.unwrap(start)))
        own.add(file)
        for part in _reached(file, start.__qualname__.partition(".")[0]):
            digest.update(part.text.encode() + b"\0")
            imports |= part.imports
    found: dict[Path, str] = {}
    waiting = set(files_below(imports)) - own
    while waiting:
        file = waiting.pop()
        source = _read(file)
        if _libraries(source.imports) & _KEEPERS:
            left_out.add(file)
            continue
        found[file] = source.digest
        used = {*files_below(source.imports - imports), *_named(file, source.beside)}
        imports |= source.imports
        waiting |= used - found.keys() - left_out - own
    for file in sorted(found):
        digest.update(f"{_label(file)} {found[file]}\0".encode())
    return Code(
        digest=digest.hexdigest(),
        files=tuple(sorted(_label(file) for file in found.keys() | own)),
        versions=_versions(_libraries(imports) - _KEEPERS - _IDLE),
        left_out=tuple(sorted(_label(file) for file in left_out)),
    )


def _label(file: Path) -> str:
    return file.relative_to(_ROOT).as_posix() if file.is_relative_to(_ROOT) else file.name


def _reached(file: Path, name: str) -> Iterator[_Source]:
    """The definitions of ``file`` that ``name`` uses, in the file's order, and statements that run on every import."""
    source, lines = _read(file), _read(file).text.splitlines(keepends=True)
    body = [node for node in ast.parse(source.text).body if not _for_types(node)]
    bound: dict[str, list[ast.stmt]] = {}
    for node in body:
        for binding in _bindings(node):
            bound.setdefault(binding, []).append(node)
    waiting = [*bound[name], *(node for node in body if not _bindings(node) and not _is_docstring(node))]
    seen: set[ast.stmt] = set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            waiting += [other for each in sorted(used) for other in bound.get(each, ())]
    for node in sorted(seen, key=lambda node: node.lineno):
        first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
        yield _Source("".join(lines[first - 1 : node.end_lineno]), "", frozenset(_imports([node], file)), frozenset())


def _bindings(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines and that only matter to who uses them."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    return []


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _read(file: Path) -> _Source:
    state = file.stat()
    return _parsed(file, state.st_mtime_ns, state.st_size)


@cache
def _parsed(file: Path, _modified: int, _size: int) -> _Source:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if file.suffix != ".py":
        return _Source("", digest, frozenset(), frozenset())
    text = content.decode()
    tree = ast.parse(text)
    beside: set[str] = set()
    if "__file__" in text or "importlib.resources" in text:
        strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        beside = {value for value in strings if isinstance(value, str) and _NAME.fullmatch(value)}
    return _Source(text, digest, frozenset(_imports(tree.body, file)), frozenset(beside))


def _imports(body: Iterable[ast.AST], file: Path) -> Iterator[str]:
    """Dotted names that statements import, those inside them too; expressions cannot hold any."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = file.parents[node.level - 1].relative_to(_ROOT).parts if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case) and not _for_types(node):
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _imports(getattr(node, field, ()), file)


def files_below(names: Iterable[str]) -> Iterator[Path]:
    """The files of this repository behind dotted names, each with the packages that it lies in."""
    for name in names:
        parts = name.split(".")
        if parts[0] not in _PACKAGES:
            continue
        folders = [_ROOT.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
        yield from (path for folder in folders if (path := folder / "__init__.py").is_file())
        if (path := folders[-1].with_suffix(".py")).is_file():
            yield path


def _named(file: Path, names: Iterable[str]) -> Iterator[Path]:
    """The files that ``names`` name in a module's folder or one above it; of folders what is no module."""
    places = [folder for folder in file.parents if folder.is_relative_to(_ROOT) and folder != _ROOT]
    for path in (place / name for name in names for place in places):
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from (each for each in path.rglob("*") if each.is_file() and each.suffix not in (".py", ".pyc"))


def _libraries(names: Iterable[str]) -> set[str]:
    """The top-level modules among dotted names that are neither of this repository nor of Python."""
    return {name.partition(".")[0] for name in names} - _PACKAGES - sys.stdlib_module_names


def _versions(modules: set[str]) -> dict[str, str]:
    """Installed distribution -> version, for those that provide ``modules`` and what lies beneath them."""
    beneath = {library for module in modules for library in _BENEATH.get(module, ())}
    names = {name for module in modules | beneath for name in _distributions(module)}
    return {name: metadata.version(name) for name in sorted(names)}


@cache
def _distributions(module: str) -> tuple[str, ...]:
    """The names of the distributions that provide a module; none where it is not installed."""
    try:
        return (metadata.distribution(module).metadata["Name"],)
    except metadata.PackageNotFoundError:  # another name, such as pillow for PIL, which takes a second to find
        return tuple(metadata.packages_distributions().get(module, ())) if find_spec(module) else ()
