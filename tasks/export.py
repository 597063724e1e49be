"""Export: convert the student to the GGUF file that ships, and prove it before anybody may use it."""

from pydantic import BaseModel, ConfigDict

from deployment.prompt import Prompt, chat_template
from registry.artifacts import Artifact, write_text
from registry.models import stage_run
from registry.snapshots import Snapshot
from tasks.gguf_export.verify import VerifyReport, verify_gguf
from tasks.gguf_export.writer import export_gguf as write_gguf
from tasks.quant.types import QuantType
from tasks.records import snapshot_records
from tasks.steps import StepContext, step

_PARITY_PROMPTS = 8


class ExportedModel(BaseModel):
    """The file that ships and what its verification found."""

    model_config = ConfigDict(frozen=True)

    gguf: Artifact
    verification: VerifyReport


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
        prompts = [record.command for record in snapshot_records(snapshot, "test")[:_PARITY_PROMPTS]]
        verification = verify_gguf(report.path, student.path, prompts, prompt=prompt)
        verification_file = step.folder / "verification.json"
        write_text(verification_file, verification.model_dump_json(indent=2))
        log.log_artifact(verification_file)
        log.log_metrics({"bytes": report.bytes, "tensors": report.tensors})
    return ExportedModel(gguf=Artifact.of("gguf", report.path), verification=verification)
