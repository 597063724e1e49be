"""What a retrain finds out about its models: how sure the file's answers are, each stage's figures, the verdict."""

import logging
from dataclasses import replace
from typing import NamedTuple

from deployment.answers.rules import AnswerRules
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import AnswerLimits, Mode
from flows.bases import Bases
from flows.run import Run
from registry.artifacts import Artifact
from registry.records import LabelSet
from tasks.calibrate import score_fold, score_validation
from tasks.doubt.calibration import calibrate
from tasks.export import ExportedModel
from tasks.gates.judge import Verdict
from tasks.measure import EvaluatedModel, Forensics, evaluate_model, fetch_champion, inspect_weights, judge_gates
from tasks.train import TrainedModel

GROUNDED = "gguf_grounded"
_log = logging.getLogger(__name__)


class Trained(NamedTuple):
    base: Artifact
    teacher: TrainedModel
    student: TrainedModel


class _Asking(NamedTuple):
    """How a model is asked: as it was trained and as its package says."""

    prompt: Prompt
    limits: AnswerLimits
    labels: LabelSet
    rules: AnswerRules


class Measured(NamedTuple):
    metrics: dict[str, EvaluatedModel]  # by stage: teacher, student, gguf, gguf_grounded
    forensics: Forensics
    verdict: Verdict


def with_doubt(run: Run, bases: Bases, exported: ExportedModel) -> Run:
    """``run`` with rules that tell how sure a grounded answer is, where there are rows enough to know."""
    answers, evaluation = run.settings.answers, run.settings.evaluation
    asked = {
        "rules": run.rules,
        "prompt": run.settings.prompt,
        "limits": evaluation.limits(exported.longest),
        "threads": evaluation.llama_threads,
        "slots": evaluation.slots,
    }
    if answers.folds:
        recipe = run.settings.teacher.training
        found = [
            run.steps.run(
                score_fold.titled(f"score fold {number}"),
                base=bases.teacher,
                snapshot=run.snapshot,
                recipe=recipe,
                number=number,
                of=answers.folds,
                **asked,
            )
            for number in range(1, answers.folds + 1)
        ]
    else:
        found = [run.steps.run(score_validation, gguf=exported.gguf, snapshot=run.snapshot, **asked)]
    doubt = calibrate(
        [answer for scored in found for answer in scored.answers],
        false_rejects=answers.false_rejects,
        ask_below=answers.ask_below,
        source=found[0].source,
    )
    if doubt is None:
        _log.warning("Too few rows in scope or out of it to calibrate how sure answers are; none will say.")
    return replace(run, rules=run.rules.model_copy(update={"doubt": doubt}))


def measure(run: Run, trained: Trained, exported: ExportedModel) -> Measured:
    """Task metrics of every stage and of the champion on this test split, weight forensics, and the verdict."""
    asking = _Asking(
        prompt=run.settings.prompt,
        limits=run.settings.evaluation.limits(exported.longest),
        labels=run.snapshot.label_set,
        rules=run.rules,
    )
    stages = {"teacher": trained.teacher.model, "student": trained.student.model, "gguf": exported.gguf}
    metrics = {stage: _evaluated(run, model, stage, asking) for stage, model in stages.items()}
    metrics[GROUNDED] = _evaluated(run, exported.gguf, GROUNDED, asking, Mode.GROUNDED, metrics["gguf"].report)
    champion, champion_metrics, champion_grounded = fetch_champion(run.settings.model_name, run.home), None, None
    if champion:
        file, package = Artifact.of("champion", champion.package.gguf), champion.package
        own = _Asking(package.prompt, package.modelfile.limits, package.labels, package.rules)  # as on the devices
        champion_metrics = _evaluated(run, file, "champion", own).metrics
        champion_grounded = _evaluated(run, file, "champion_grounded", own, Mode.GROUNDED).metrics
    forensics = run.steps.run(
        inspect_weights,
        base=trained.base,
        teacher=trained.teacher.model,
        student=trained.student.model,
        gguf=exported.gguf,
        champion=Artifact.of("champion", champion.package.gguf) if champion else None,
        ratio_max=run.settings.gates.norm_outlier_ratio_max,
    )
    verdict = judge_gates(
        candidate=metrics["gguf"].metrics,
        champion=champion_metrics,
        champion_name=champion.name if champion else None,
        outliers_vs_base=forensics.vs_base,
        outliers_vs_champion=forensics.vs_champion,
        checks={
            "prompt_parity": exported.verification.prompt_parity,
            "gguf_verification": exported.verification.passed,
        },
        thresholds=run.settings.gates,
        candidate_grounded=metrics[GROUNDED].metrics,
        champion_grounded=champion_grounded,
    )
    return Measured(metrics, forensics, verdict)


def _evaluated(
    run: Run, model: Artifact, stage: str, asking: _Asking, mode: Mode = Mode.FREE, beside: Artifact | None = None
) -> EvaluatedModel:
    evaluation = run.settings.evaluation
    return run.steps.run(
        evaluate_model.titled(f"evaluate {stage}"),
        model=model,
        snapshot=run.snapshot,
        prompt=asking.prompt,
        max_new_tokens=asking.limits.num_predict,
        context=asking.limits.num_ctx,
        parallel=evaluation.slots if model.path.suffix == ".gguf" else evaluation.batch_size,
        threads=evaluation.llama_threads,
        labels=asking.labels,
        rules=asking.rules,
        mode=mode,
        beside=beside,
    )
