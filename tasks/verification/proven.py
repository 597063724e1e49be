"""An export that nobody can take for a model before it is proven to be that of the folder."""

from pathlib import Path

from registry.errors import VerificationFailed
from registry.files import atomic_file
from tasks.gguf.writer import ExportReport, export_gguf
from tasks.quant.types import QuantType
from tasks.verification.verify import VerifyReport, verify_conversion


class ProvenExport(ExportReport):
    """What was written, and how it was proven."""

    verification: VerifyReport


def require_proof(gguf: Path, model_dir: Path, out: Path, *, threads: int = 1) -> VerifyReport:
    """Verify ``gguf``, which is to be called ``out``. Raises VerificationFailed where it is not the model."""
    verification = verify_conversion(gguf, model_dir, threads=threads)
    if not verification.passed:
        findings = "; ".join(check.finding() for check in verification.checks if not check.passed)
        raise VerificationFailed(
            f"{out} was not written, since it would not be the model in {model_dir}: {findings}. Look at it with "
            "--no-verify."
        )
    return verification


def export_proven(
    model_dir: Path, out: Path, *, weights: QuantType, embedding: QuantType | None = None, threads: int = 1
) -> ProvenExport:
    """:func:`export_gguf`, reread and run in llama.cpp with ``threads`` before it gets its name.

    Raises:
        UsageError: the folder cannot be converted.
        VerificationFailed: the file is not the model in ``model_dir``; what was at ``out`` is still there.
    """
    with atomic_file(out) as temporary:
        report = export_gguf(model_dir, temporary, weights=weights, embedding=embedding)
        verification = require_proof(temporary, model_dir, out, threads=threads)
    return ProvenExport.model_validate(report.model_dump() | {"path": out, "verification": verification})
