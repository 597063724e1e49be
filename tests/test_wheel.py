"""What a wheel of gemmill puts into an environment."""

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from small_package import make_package

import gemmill

ROOT = Path(gemmill.__file__).parent
FOLDERS = ("flows", "tasks", "registry", "deployment", "data_checks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in _tracked("gemmill.py", "pyproject.toml", "README.md", "LICENSE", *FOLDERS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "."], check=True, cwd=folder)
    return next(folder.glob("gemmill-*.whl"))


def _tracked(*paths: str) -> list[str]:
    found = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return found.stdout.splitlines()


@pytest.mark.slow
def test_a_wheel_has_gemmill_and_its_five_folders_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "gemmill.py",
        *FOLDERS,
    }


@pytest.mark.slow
def test_a_wheel_has_every_file_that_its_code_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert not set(_tracked(*FOLDERS)) - set(archive.namelist())


@pytest.mark.slow
def test_gemmill_is_imported_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import gemmill; print(gemmill.__file__, gemmill.__version__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "gemmill.py"), metadata.version("gemmill")]


def test_a_package_is_loaded_once_it_is_verified(tmp_path: Path) -> None:
    package = gemmill.load_package(make_package(tmp_path).path)
    assert package.gguf.is_file()
    package.gguf.write_bytes(b"changed")
    with pytest.raises(gemmill.GemmillError, match="has changed"):
        gemmill.load_package(str(tmp_path / "package"))
