"""Models that were not trained on what they are asked, which a calibration on many records needs."""

from collections.abc import Sequence
from pathlib import Path

from deployment.answers.policy import decoding_of
from deployment.answers.rules import AnswerRules
from deployment.prompts.prompt import Prompt, chat_template
from deployment.runtimes.decoding import AnswerLimits, Mode
from deployment.runtimes.llama_server import LlamaServer
from deployment.runtimes.logprobs import LIKELIEST
from deployment.runtimes.prediction import Prediction
from registry.records import LabelSet, Record
from tasks.doubt.folds import Fold
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.training.loop import MetricSink
from tasks.training.processes import TrainingJob, fit_in_processes
from tasks.training.recipe import TrainingRecipe


def train_fold(
    fold: Fold,
    out: Path,
    *,
    base: Path,
    labels: LabelSet,
    prompt: Prompt,
    recipe: TrainingRecipe,
    title: str,
    on_metric: MetricSink,
) -> Path:
    """Train as the teacher is, on the fold's records, in full precision, and write the Q8_0 file ``out``.

    A training that was cut short goes on from its checkpoint beside ``out``.
    """
    model = out.with_suffix("")
    if not model.exists():
        job = TrainingJob(
            base=base,
            out=model,
            train_records=fold.train,
            validation_records=fold.held_out,  # for the curve; nothing is chosen by them
            labels=labels,
            prompt=prompt,
            recipe=recipe.model_copy(update={"qat": False, "qat_start_step": 0, "patience": None}),
            types={},
            title=title,
        )
        fit_in_processes(job, on_metric)
    q8_0 = QuantType.Q8_0
    export_gguf(model, out, weights=q8_0, embedding=q8_0, chat_template=chat_template(prompt))
    return out


def ask_grounded(
    gguf: Path,
    records: Sequence[Record],
    *,
    labels: LabelSet,
    rules: AnswerRules,
    prompt: Prompt,
    limits: AnswerLimits,
    threads: int,
    slots: int,
) -> list[Prediction]:
    """The grounded answers of a file to the commands of ``records``, with what it tells of their tokens."""
    server = LlamaServer(
        gguf,
        prompt=prompt,
        threads=threads,
        slots=slots,
        context=limits.num_ctx,
        max_new_tokens=limits.num_predict,
        decoding=decoding_of(Mode.GROUNDED, labels, rules, logprobs=LIKELIEST),
    )
    with server:
        return server.answer([record.command for record in records])
