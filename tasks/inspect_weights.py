"""Weight forensics: every tensor of base, teacher, student, file and champion, and what training made of the norms."""

from pydantic import BaseModel, ConfigDict

from registry.artifacts import Artifact, write_text
from registry.models import stage_run
from tasks.forensics import plots
from tasks.forensics.comparison import OutlierComparison, compare_outliers
from tasks.forensics.report import write_report
from tasks.forensics.statistics import tensor_statistics
from tasks.reports.figures import write_png
from tasks.steps import Place, step


class Forensics(BaseModel):
    """The shipped file's norm gains against the base's and, where there is one, the champion's."""

    model_config = ConfigDict(frozen=True)

    vs_base: OutlierComparison
    vs_champion: OutlierComparison | None
    page: Artifact


@step(
    "tasks/forensics",
    "tasks/reports",
    "tasks/checkpoints",
    "tasks/gguf_export/architectures",
    "tasks/gguf_export/base_layers.py",
    "tasks/gguf_export/checkpoint.py",
    "tasks/gguf_export/container.py",
    "tasks/gguf_export/files.py",
    "tasks/gguf_export/source.py",
    "tasks/inspect_weights.py",
)
def inspect_weights(
    base: Artifact,
    teacher: Artifact,
    student: Artifact,
    gguf: Artifact,
    champion: Artifact | None,
    ratio_max: float,
    place: Place,
) -> Forensics:
    """Measure and compare; statistics, page and heat maps become artifacts of the MLflow run."""
    models = {"base": base, "teacher": teacher, "student": student, "gguf": gguf}
    if champion:
        models["champion"] = champion
    with stage_run(place.run_id, "forensics") as log:
        statistics = {}
        for name, model in models.items():
            statistics[name] = tensor_statistics(model.path).model_copy(update={"model": name})
            write_text(place.folder / f"{name}.json", statistics[name].to_json())
            gains = [norm.gains.max_abs for norm in statistics[name].norms if norm.gains]
            log.log_metrics({f"{name}.largest_gain": max(gains, default=None)})
        shipped = statistics["gguf"]
        figures = {
            f"norm_gains_{name}": plots.gain_heat_map(statistics[name], title=f"Largest norm gain, {name}")
            for name in ("base", "teacher", "student")
        } | {
            f"weights_{name}": plots.weight_heat_map(statistics[name], title=f"Largest weight, {name}")
            for name in ("teacher", "student")
        }
        for name, figure in figures.items():
            write_png(figure, place.folder / f"{name}.png")
        page = place.folder / "inspection.html"
        others = {name: found for name, found in statistics.items() if name != "gguf"}
        write_report(page, shipped, others, ratio_max=ratio_max)
        log.log_artifact(place.folder, "forensics")

    def against(name: str) -> OutlierComparison:
        return compare_outliers(shipped, statistics[name], ratio_max=ratio_max)

    return Forensics(
        vs_base=against("base"),
        vs_champion=against("champion") if champion else None,
        page=Artifact.of("inspection page", page),
    )
