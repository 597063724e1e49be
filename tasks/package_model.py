"""Put the GGUF and all that a device and its owner need of it into one folder."""

from typing import Any

from deployment.licence import apache_licence, gemma_licence
from deployment.modelfile import Limits
from deployment.package import Card, build_package
from deployment.prompt import Prompt
from registry.artifacts import Artifact
from registry.snapshots import Snapshot
from tasks.evaluation.golden import golden_rows
from tasks.evaluation.report import load_report
from tasks.records import snapshot_labels
from tasks.steps import Place, step

_GOLDEN_PROMPTS = 8


@step("data_checks/contract.py", "deployment", "tasks/evaluation", "tasks/reports", "tasks/package_model.py")
def package_model(
    gguf: Artifact,
    evaluation: Artifact,
    snapshot: Snapshot,
    model_name: str,
    prompt: Prompt,
    licence: str,
    derived: bool,
    terms: Artifact | None,
    limits: Limits,
    card: dict[str, Any],
    place: Place,
) -> Artifact:
    """The package folder; its golden prompts are test commands with the file's own answers: those that the label
    set names, then right ones.

    ``derived``: the weights come from a base, and not from scratch. ``terms`` is the copy of the licence that came with
    the base.
    """
    labels = snapshot_labels(snapshot)
    rows = golden_rows(load_report(evaluation.verify()).rows, labels.golden)
    return build_package(
        place.folder / "package",
        name=model_name,
        gguf=gguf.verify(),
        labels=labels,
        prompt=prompt,
        golden=[(row.command, row.answer) for row in rows[: max(_GOLDEN_PROMPTS, len(labels.golden))]],
        card=Card(dataset=snapshot.dataset, rows=snapshot.rows, **card),
        licence=(
            gemma_licence(terms.verify() if terms else None) if licence == "gemma" else apache_licence(derived=derived)
        ),
        limits=limits,
    )
