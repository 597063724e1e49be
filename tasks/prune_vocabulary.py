"""Drop the tokens of a base that the plant does not need."""

from pydantic import BaseModel, ConfigDict

from data_checks.texts import read_texts
from deployment.prompt import Prompt
from registry.artifacts import Artifact, write_text
from registry.models import stage_run
from registry.snapshots import Snapshot
from tasks.records import snapshot_labels, snapshot_records
from tasks.steps import Place, step
from tasks.vocabulary.corpus import Corpus
from tasks.vocabulary.pruning import PruneReport
from tasks.vocabulary.pruning import prune_vocabulary as prune
from tasks.vocabulary.recipe import VocabularyRecipe


class PrunedBase(BaseModel):
    """A base with part of its vocabulary, and what was kept."""

    model_config = ConfigDict(frozen=True)

    model: Artifact
    report: PruneReport


@step(
    "data_checks/contract.py",
    "data_checks/files.py",
    "data_checks/quarantine.py",
    "data_checks/texts.py",
    "deployment/prompt.py",
    "deployment/turns.py",
    "tasks/checkpoints",
    "tasks/gguf_export",
    "tasks/quant",
    "tasks/training/models.py",
    "tasks/training/recipe.py",
    "tasks/vocabulary",
    "tasks/cores.py",
    "tasks/prune_vocabulary.py",
)
def prune_vocabulary(
    base: Artifact, snapshot: Snapshot, texts: Artifact | None, recipe: VocabularyRecipe, prompt: Prompt, place: Place
) -> PrunedBase:
    """Count over the records that are trained on or validated with, never those of the test, and over ``texts``."""
    corpus = Corpus(
        records=[record for split in ("train", "validation") for record in snapshot_records(snapshot, split)],
        labels=snapshot_labels(snapshot),
        texts=read_texts([texts.verify()]) if texts else (),
    )
    out = place.folder / "model"
    with stage_run(place.run_id, "vocabulary") as log:
        log.log_params(recipe.model_dump())
        report = prune(base.verify(), out, corpus, recipe, prompt=prompt)
        report_file = place.folder / "vocabulary.json"
        write_text(report_file, report.model_dump_json(indent=2) + "\n")
        log.log_artifact(report_file)
        log.log_metrics({"tokens": report.tokens, "coverage": report.coverage})
    return PrunedBase(model=Artifact.of("pruned base", out), report=report)
