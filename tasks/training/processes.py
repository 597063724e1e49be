"""One training run in several processes: accelerate starts them, the first one reports and writes the result.

The job file stays beside the result, so that a user with more machines runs the same job under a launcher of their own:

    accelerate launch --config_file CLUSTER.yaml -m tasks.training.processes JOB.json
"""

import json
import subprocess
import sys
from pathlib import Path

from accelerate import PartialState
from pydantic import BaseModel, ConfigDict

from data_checks.contract import LabelSet, Record
from deployment.prompt import Prompt
from registry.artifacts import write_text
from registry.errors import UsageError
from tasks.quant.types import QuantType
from tasks.training.fit import HISTORY_FILE, Teaching, fit
from tasks.training.loop import History, MetricSink
from tasks.training.recipe import TrainingRecipe


class TrainingJob(BaseModel):
    """Everything that :func:`tasks.training.fit.fit` is told, as a file."""

    model_config = ConfigDict(frozen=True)

    base: Path
    out: Path
    train_records: list[Record]
    validation_records: list[Record]
    labels: LabelSet
    prompt: Prompt
    recipe: TrainingRecipe
    types: dict[str, QuantType]
    teaching: Teaching | None = None
    title: str = "training"

    def run(self, on_metric: MetricSink) -> History:
        """Train in this process."""
        arguments = {name: getattr(self, name) for name in type(self).model_fields}
        return fit(arguments.pop("base"), arguments.pop("out"), on_metric=on_metric, **arguments)


def fit_in_processes(job: TrainingJob, on_metric: MetricSink) -> History:
    """Train in as many processes as the recipe says.

    Raises:
        UsageError: what :func:`tasks.training.fit.fit` raises, or a process that ended without saying why.
    """
    if job.recipe.processes == 1:
        return job.run(on_metric)
    path = job.out.parent / f"{job.out.name}.job.json"
    write_text(path, job.model_dump_json(indent=1) + "\n")
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes",
        str(job.recipe.processes), "--mixed_precision", "no", "--dynamo_backend", "no", "-m", __name__, str(path),
    ]  # fmt: skip
    if not _has_gpus():
        command[command.index("--multi_gpu")] = "--cpu"
    complaint = f"one of the {job.recipe.processes} training processes ended early; its last lines are above."
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101  narrows the type of a pipe
        for line in process.stdout:
            name, *rest = json.loads(line)
            if name == "error":
                complaint = rest[0]
            else:
                on_metric(name, *rest)
    if process.returncode:
        raise UsageError(complaint)
    return History.model_validate_json((job.out / HISTORY_FILE).read_text(encoding="utf-8"))


def _has_gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def main(path: Path) -> int:
    """One of the processes. Lines of JSON on standard output are for the one that started it."""
    job = TrainingJob.model_validate_json(path.read_text(encoding="utf-8"))
    state = PartialState(cpu=not _has_gpus())

    def say(*parts: object) -> None:
        print(json.dumps(parts), flush=True)  # noqa: T201  the protocol

    try:
        job.run(say if state.is_main_process else lambda *_: None)
    except UsageError as error:
        say("error", str(error))
        return 1
    finally:
        state.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
