"""An artifact is a path with its digest; this is what travels between steps.

Its path holds the whole thing or nothing, as registry.files writes it.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.errors import UsageError
from registry.files import file_sha256, files_below

CHECKSUMS = "SHA256SUMS"


class Artifact(BaseModel):
    """A file or folder and the SHA-256 of its content.

    The digest of a folder is the SHA-256 of its ``sha256sum`` listing, sorted by relative path.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    path: Path
    sha256: str
    bytes: int

    @classmethod
    def of(cls, kind: str, path: Path) -> "Artifact":
        """Measure what lies at ``path``. Raises UsageError where nothing does."""
        if not path.exists():
            raise UsageError(f"{path} does not exist; it should hold the {kind}.")
        files = [path] if path.is_file() else list(files_below(path))
        digest = file_sha256(path) if path.is_file() else hashlib.sha256(checksums(path).encode()).hexdigest()
        return cls(kind=kind, path=path, sha256=digest, bytes=sum(file.stat().st_size for file in files))

    def verify(self) -> Path:
        """Return the path if its content still has this digest. Raises UsageError otherwise."""
        found = Artifact.of(self.kind, self.path).sha256
        if found != self.sha256:
            raise UsageError(
                f"{self.path} has SHA-256 {found[:12]}… where {self.sha256[:12]}… was recorded; it changed "
                "after it was made.  Delete it and run the step again."
            )
        return self.path


def checksums(folder: Path) -> str:
    """The lines that ``sha256sum`` prints for every file below ``folder``, sorted by relative path."""
    return "".join(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files_below(folder))


def write_checksums(folder: Path) -> None:
    """Write the SHA256SUMS of a finished folder; ``sha256sum -c SHA256SUMS`` checks it too."""
    (folder / CHECKSUMS).unlink(missing_ok=True)
    (folder / CHECKSUMS).write_text(checksums(folder), encoding="utf-8")


def verify_checksums(folder: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 as SHA256SUMS lists them, if the folder holds exactly those files.

    Raises UsageError naming the first file that changed, is missing or is not listed.
    """
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{folder} has no readable {CHECKSUMS}; fetch or build the folder again.") from error
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {name: digest for digest, _, name in (line.partition("  ") for line in checksums(folder).splitlines())}
    found.pop(CHECKSUMS, None)
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            fault = "is missing" if name not in found else "has changed" if name in listed else "is not listed"
            raise UsageError(f"{folder / name} {fault}, says {CHECKSUMS}; fetch or build the folder again.")
    return listed
