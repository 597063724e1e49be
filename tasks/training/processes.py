"""One training run in several processes: torchrun starts them, the first one reports and writes the result.

The job file stays beside the result. Whoever has more machines runs it under a launcher of their own; what lies beside
the job, checkpoints too, must then be on a file system that all of them share:

    torchrun --nnodes 2 --nproc-per-node 8 ... -m tasks.training.processes JOB.json
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from pydantic import BaseModel, ConfigDict

from deployment.prompts.prompt import Prompt
from registry.errors import UsageError
from registry.files import write_text
from registry.records import LabelSet, Record
from tasks.quant.types import QuantType
from tasks.training.fit import Teaching, fit, history_file
from tasks.training.loop import History, MetricSink
from tasks.training.recipe import TrainingRecipe

logger = logging.getLogger(__name__)
_MESSAGE = "gemmill:"  # opens a line for the starting process; other lines are a library's


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
        """Train in this process, alone or as one of those that a launcher has started."""
        arguments = {name: getattr(self, name) for name in type(self).model_fields}
        return fit(arguments.pop("base"), arguments.pop("out"), on_metric=on_metric, **arguments)


def fit_in_processes(job: TrainingJob, on_metric: MetricSink) -> History:
    """Train in as many processes as the recipe says.

    Raises:
        UsageError: what :func:`tasks.training.fit.fit` raises, more processes than GPUs, or a process that ended
            without saying why.
    """
    count = job.recipe.processes
    if count == 1:
        return job.run(on_metric)
    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise UsageError(
            f"processes is {count}, this machine has {torch.cuda.device_count()} GPUs; lower it or hide the GPUs."
        )
    path = job.out.parent / f"{job.out.name}.job.json"
    write_text(path, job.model_dump_json(indent=1) + "\n")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", __name__,
        str(path),
    ]  # fmt: skip
    complaint = f"one of the {count} training processes ended early; its last lines are above."
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101  narrows the type of a pipe
        try:
            for line in process.stdout:
                if not line.startswith(_MESSAGE):
                    logger.info("%s", line.rstrip())
                    continue
                name, *rest = json.loads(line.removeprefix(_MESSAGE))
                if name == "error":
                    complaint = rest[0]
                else:
                    on_metric(name, *rest)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise UsageError(complaint)
    return History.model_validate_json(history_file(job.out).read_text(encoding="utf-8"))


def main(path: Path) -> int:
    """One of the processes."""
    job = TrainingJob.model_validate_json(path.read_text(encoding="utf-8"))
    state = PartialState(cpu=not torch.cuda.is_available())

    def say(*parts: object) -> None:
        os.write(1, f"{_MESSAGE}{json.dumps(parts)}\n".encode())  # at once, or two processes' lines would mix

    try:
        if state.num_processes != int(os.environ["WORLD_SIZE"]):
            raise UsageError(f"{os.environ['WORLD_SIZE']} processes were started and see {state.num_processes}.")
        if state.is_main_process:
            say("processes", state.num_processes, 0)
        job.run(say if state.is_main_process else lambda *_: None)
    except UsageError as error:
        say("error", str(error))
        return 1
    finally:
        state.destroy_process_group()
    return 0


if __name__ == "__main__":
    exit_code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # threads of gloo may still run, and abort an interpreter that ends around them
