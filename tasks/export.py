"""Export: convert the student to the GGUF file that ships, and prove it before anybody may use it."""

from itertools import chain

from pydantic import BaseModel, ConfigDict

from deployment.prompts.prompt import Prompt, chat_template
from deployment.runtimes.decoding import Longest
from registry.artifacts import Artifact
from registry.files import write_text
from registry.models import stage_run
from registry.store.snapshots import Snapshot
from tasks.evaluation.lengths import longest
from tasks.gguf.container import GgufFile
from tasks.gguf.writer import export_gguf as write_gguf
from tasks.quant.types import QuantType
from tasks.steps import StepContext, step
from tasks.verification.checks import greedy_check
from tasks.verification.verify import VerifyReport, verify_gguf

_PARITY_PROMPTS = 8


class ExportedModel(BaseModel):
    """The file that ships, what its verification found, and how long the snapshot's prompts and answers are for it."""

    model_config = ConfigDict(frozen=True)

    gguf: Artifact
    verification: VerifyReport
    longest: Longest


@step
def export_gguf(
    step: StepContext,
    student: Artifact,
    snapshot: Snapshot,
    file_name: str,
    prompt: Prompt,
    weights: QuantType,
    embedding: QuantType,
    provenance: dict[str, str],
) -> ExportedModel:
    """Write, reread and run the file; a file that fails verification is kept for inspection and blocked by its gate."""
    with stage_run(step.run_id, "export") as log:
        log.log_params({"weights": weights, "embedding": embedding})
        report = write_gguf(
            student.verify(),
            step.folder / file_name,
            weights=weights,
            embedding=embedding,
            provenance=provenance,
            chat_template=chat_template(prompt),
        )
        splits = {split: snapshot.records(split) for split in snapshot.rows}
        prompts = [record.command for record in splits["test"][:_PARITY_PROMPTS]]
        checks = verify_gguf(report.path, student.path, prompts, prompt=prompt).checks
        with GgufFile(report.path) as file:
            verification = VerifyReport.of([*checks, greedy_check(file)])
        verification_file = step.folder / "verification.json"
        write_text(verification_file, verification.model_dump_json(indent=2))
        log.log_artifact(verification_file)
        log.log_metrics({"bytes": report.bytes, "tensors": report.tensors})
    return ExportedModel(
        gguf=Artifact.of("gguf", report.path),
        verification=verification,
        longest=longest(student.path, list(chain(*splits.values())), snapshot.label_set, prompt),
    )
