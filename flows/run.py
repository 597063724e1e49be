"""What every part of a retrain needs, carried as one: what it was told, its data, its steps and where they log."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployment.answers.rules import AnswerRules, learn_rules
from flows.settings import Profile
from registry import models
from registry.artifacts import Artifact
from registry.home import Home
from registry.store.snapshots import Snapshot
from tasks.collect import take_texts
from tasks.steps import Steps


@dataclass(frozen=True, kw_only=True)
class Run:
    """One retrain under way."""

    settings: Profile
    home: Home
    snapshot: Snapshot
    rules: AnswerRules  # that the training rows keep to
    texts: Artifact | None  # unlabelled
    steps: Steps
    log: models.RunLog

    def origin(self, base: Artifact) -> dict[str, str]:
        """The digests of what a model derives from, as they travel with it."""
        digests = {"snapshot_sha256": self.snapshot.sha256, "base_sha256": base.sha256}
        return digests | ({"texts_sha256": self.texts.sha256} if self.texts else {})


@contextmanager
def open_run(settings: Profile, home: Home, snapshot: Snapshot, texts: list[Path] | None) -> Iterator[Run]:
    """A retrain with its MLflow run, which ends as FAILED where the body raises."""
    name, tags = f"{settings.name}-{snapshot.id}", {"profile": settings.name, "snapshot_sha256": snapshot.sha256}
    with models.retrain_run(name, params=settings.model_dump(mode="json"), tags=tags) as log:
        models.log_snapshot(log.run_id, snapshot)
        yield Run(
            settings=settings,
            home=home,
            snapshot=snapshot,
            rules=learn_rules(
                snapshot.records("train"), snapshot.label_set, grounded_min=settings.answers.grounded_min
            ),
            texts=take_texts(texts, home.texts) if texts else None,
            steps=Steps(home.steps, log.run_id),
            log=log,
        )


def git_revision() -> str:
    """The revision of the code that runs; "unknown" outside a checkout of its own."""
    code = Path(__file__).resolve().parent.parent
    command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        said = subprocess.run(command, cwd=code, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    checkout, revision = said.splitlines()
    return revision if Path(checkout).resolve() == code else "unknown"  # else of what gemmill is installed in
