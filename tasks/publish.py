"""Publish: the GGUF with all that a device and its owner need of it, as a package and as a registered version."""

from collections.abc import Mapping
from typing import Any

from deployment.answers.rules import AnswerRules
from deployment.packages.licence import apache_licence, gemma_licence
from deployment.packages.package import Card, build_package, verify_package
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import AnswerLimits
from registry.artifacts import Artifact
from registry.models import RegisteredVersion
from registry.models import register_version as register
from registry.store.snapshots import Snapshot
from tasks.evaluation.golden import golden_rows
from tasks.evaluation.report import load_report
from tasks.steps import StepContext, outside, step

_GOLDEN_PROMPTS = 8


@step
def package_model(
    step: StepContext,
    gguf: Artifact,
    evaluation: Artifact,
    snapshot: Snapshot,
    model_name: str,
    prompt: Prompt,
    licence: str,
    derived: bool,
    terms: Artifact | None,
    limits: AnswerLimits,
    rules: AnswerRules,
    card: dict[str, Any],
) -> Artifact:
    """The package folder; its golden prompts are test commands with the file's own answers: those that the label
    set names, then right ones.

    ``derived``: the weights come from a base, and not from scratch. ``terms`` is the copy of the licence that came with
    the base.
    """
    labels = snapshot.label_set
    rows = [row for row in load_report(evaluation.verify()).rows if not row.failure]
    golden = golden_rows(rows, labels.golden)
    return build_package(
        step.folder / "package",
        name=model_name,
        gguf=gguf.verify(),
        labels=labels,
        rules=rules,
        prompt=prompt,
        golden=[(row.command, row.answer) for row in golden[: max(_GOLDEN_PROMPTS, len(labels.golden))]],
        card=Card(dataset=snapshot.dataset, rows=snapshot.rows, **card),
        licence=(
            gemma_licence(terms.verify() if terms else None) if licence == "gemma" else apache_licence(derived=derived)
        ),
        limits=limits,
    )


@outside(minutes=30)
def register_version(
    run_id: str, package: Artifact, model_name: str, passed: bool, tags: Mapping[str, str]
) -> RegisteredVersion:
    """The version that holds ``package``; the same package again keeps its version.

    Only a candidate that passed becomes the challenger.
    """
    path = package.verify()
    example = verify_package(path).golden[0].command
    return register(run_id, path, model_name=model_name, verdict=passed, tags=tags, example=example)
