"""A model of any form, asked every command of a file: what ``evaluate`` and ``compare`` run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data_checks.contract import read_jsonl
from data_checks.refusals import LinesRefused
from deployment.answers.doubt import Doubt
from deployment.packages.found import find_model
from deployment.prompts.prompt import Prompt
from deployment.prompts.turns import Turns, turns_in
from deployment.runtimes.decoding import AnswerLimits, Mode
from deployment.runtimes.prediction import Runtime
from registry import models
from registry.artifacts import Artifact
from registry.cores import usable_cores
from registry.errors import UsageError
from registry.files import file_sha256
from registry.home import Home
from registry.records import LabelSet, Record, infer_label_set, load_label_set
from registry.urls import masked
from tasks.checkpoints.adapters import tokenizer_folder
from tasks.checkpoints.files import MAX_TOKENIZER, read_json
from tasks.checkpoints.folders import is_model_folder
from tasks.evaluation.report import EvaluationReport, evaluation_report
from tasks.evaluation.runtimes import open_runtime
from tasks.gguf.container import GgufFile


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """The records that models are asked, and where they are from."""

    file: Path
    records: list[Record]
    labels: LabelSet

    def evaluate(
        self, runtime: Runtime, *, model: str, path: Path, decoding: str = Mode.FREE, doubt: Doubt | None = None
    ) -> EvaluationReport:
        """The greedy answers of ``runtime`` to the records, scored; ``path`` is its file or folder."""
        with runtime:
            runtime.answer([self.records[0].command])  # a model's first answer is slow, and none that counts
            predictions = runtime.answer([record.command for record in self.records])
        return evaluation_report(
            self.records,
            predictions,
            self.labels,
            model=model,
            sha256=Artifact.of("model", path).sha256 if path.exists() else None,
            dataset=self.labels.name,
            dataset_sha256=file_sha256(self.file),
            decoding=decoding,
            doubt=doubt,
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How models are asked, as the options of ``evaluate`` and ``compare`` say; a package knows better where it can."""

    instruction: str
    threads: int
    context: int
    parallel: int
    max_new_tokens: int | None
    temperature: float


def evaluation_of(
    model: str,
    data: Path,
    labels: Path | None,
    home: Path,
    asked: Asked,
    mode: Mode = Mode.FREE,
    *,
    instruction: str | None = None,
) -> Callable[[], EvaluationReport]:
    """What scores the answers of ``model`` to the records of ``data``, once all is found.

    Answers that are not free are held by the model's own labels, or ``labels``; never by what the scored rows hold.
    ``instruction`` goes before each command in place of the model's own.

    Raises:
        UsageError: model, data or label set cannot be used.
        LinesRefused: a line of ``data`` breaks the contract or the label set.
        ServiceUnavailable: the model is a server that does not answer.
    """
    labelled = read_labelled(data, labels)
    found = find_model(models.local_model(model, Home(path=home)), labels=labels)
    limits = found.limits or AnswerLimits(num_ctx=asked.context)
    prompt = found.prompt or Prompt(instruction=asked.instruction, turns=turns_of(Path(found.spec)))
    if instruction is not None:
        if not Path(found.spec).exists():
            raise UsageError(
                f"{masked(model)} is a server, which has its own prompt; give a file, a folder or a package."
            )
        prompt, limits = replace(prompt, instruction=instruction), replace(limits, num_ctx=asked.context)
    runtime = open_runtime(
        found.spec,
        prompt=prompt,
        threads=asked.threads or usable_cores(),
        context=limits.num_ctx,
        max_new_tokens=asked.max_new_tokens or limits.num_predict,
        parallel=asked.parallel,
        temperature=asked.temperature,
        decoding=found.decoding(mode),
    )
    doubt = found.rules.doubt if found.rules and mode == Mode.GROUNDED else None
    return lambda: labelled.evaluate(runtime, model=masked(model), path=Path(found.spec), decoding=mode, doubt=doubt)


def turns_of(model: Path) -> Turns:
    """The turn format that the vocabulary of a file or folder is made for; servers bring their own.

    Raises UsageError for a vocabulary of another family.
    """
    if model.suffix == ".gguf" and model.is_file():
        with GgufFile(model) as file:
            tokens = set(file.metadata.get("tokenizer.ggml.tokens", ()))
    elif is_model_folder(model) and (file := tokenizer_folder(model) / "tokenizer.json").is_file():
        added = read_json(file, MAX_TOKENIZER).get("added_tokens")
        tokens = {token.get("content") for token in added} if isinstance(added, list) else set()
    else:
        return Turns.GEMMA
    turns = turns_in(tokens)
    if turns is None:
        raise UsageError(f"{model} has the control tokens of no turn format that is known here: {', '.join(Turns)}.")
    return turns


def read_labelled(data: Path, labels: Path | None) -> LabelledData:
    """The records in ``data``, or in the test.jsonl of that folder, with their label set.

    Raises UsageError or LinesRefused where one of them cannot be used.
    """
    file = data / "test.jsonl" if data.is_dir() else data
    beside = file.parent / "labels.toml"
    chosen = labels or (beside if beside.is_file() else None)
    label_set = load_label_set(chosen) if chosen else None
    records, problems = read_jsonl(file, label_set)
    if problems:
        raise LinesRefused(problems)
    if not records:
        raise UsageError(f"{file} holds no records; give labelled ones, one JSON object a line.")
    label_set = label_set or infer_label_set("inferred", (record.response for record in records))
    return LabelledData(file=file, records=records, labels=label_set)
