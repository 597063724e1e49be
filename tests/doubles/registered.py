"""Model versions with a package of a few bytes, and what the registry then says."""

import json
from pathlib import Path

from registry import models
from registry.artifacts import write_checksums
from registry.models import RegisteredVersion
from registry.store.snapshots import Snapshot


def make_package(folder: Path, content: str = "one") -> Path:
    folder.mkdir(parents=True)
    (folder / "model-q8_0.gguf").write_bytes(b"GGUF" + content.encode())
    (folder / "README.md").write_text(f"# The card of {content}\n")
    write_checksums(folder)
    return folder


def register(tmp_path: Path, name: str, content: str, verdict: bool = True) -> RegisteredVersion:
    with models.retrain_run(f"run {content}", params={"profile": "tiny"}) as run:
        run.log_metrics({"gguf.exact_match": 0.9, "gguf.oos_recall": None})
        return models.register_version(
            run.run_id,
            make_package(tmp_path / content, content),
            model_name=name,
            verdict=verdict,
            tags={"snapshot_sha256": "ab" * 32, "git_revision": "c0ffee"},
            example="Leak at SG-402",
        )


def aliases(name: str) -> dict[str, int]:
    found = {alias: models.find(name, alias) for alias in ("challenger", "champion", "previous_champion")}
    return {alias: version.version for alias, version in found.items() if version}


def snapshot_in(folder: Path, command: str = "Leak at SG-402") -> Snapshot:
    folder.mkdir()
    line = {
        "command": command,
        "response": {"intent": "report_issue", "entities": {"a": ["x", "y"]}},
    }
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n")
    rows = {"train": 1, "validation": 1, "test": 1}
    return Snapshot(id="0123456789ab", dataset="plant", path=folder, sha256="0123456789ab" + "0" * 52, rows=rows)
