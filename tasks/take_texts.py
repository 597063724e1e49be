"""Freeze unlabelled texts under their digest, as a snapshot does for labelled records."""

import hashlib
import json
from pathlib import Path

from prefect import task

from data_checks.texts import read_texts
from registry.artifacts import Artifact, write_text


@task
def take_texts(paths: list[Path], folder: Path) -> Artifact:
    """The distinct texts of ``paths`` as one file. Raises LinesRefused for lines without a text."""
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in read_texts(paths))
    path = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.jsonl"
    write_text(path, content)
    return Artifact.of("texts", path)
