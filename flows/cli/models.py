"""The commands that take a model by itself: no audit store, no registry."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    HomeOption,
    HtmlOption,
    InstructionOption,
    JsonOption,
    LabelsOption,
    ThreadsOption,
    require_all_writable,
)

if TYPE_CHECKING:
    from flows.cli.conversion import Measuring
    from tasks.gguf.writer import ExportReport

app = typer.Typer()


@app.command(rich_help_panel="Models")
def inspect(
    model: Annotated[
        str, typer.Argument(help="HF or adapter folder, hub id, .gguf file, package folder or models:/NAME@ALIAS.")
    ],
    baseline: Annotated[str | None, typer.Option(help="Model to compare with, such as the base.")] = None,
    home: HomeOption = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Show every norm and weight, and which norm gains outgrew the baseline's."""
    require_all_writable(json_path, html_path)
    from flows.cli.console import console
    from flows.cli.weights import weights_of
    from registry.files import write_text
    from tasks.forensics import tables
    from tasks.forensics.comparison import compare_outliers
    from tasks.forensics.report import write_report
    from tasks.forensics.statistics import tensor_statistics

    statistics = tensor_statistics(weights_of(model, home))
    other = tensor_statistics(weights_of(baseline, home)) if baseline else None
    baselines = {"baseline": other} if other else {}
    if json_path:
        write_text(json_path, statistics.to_json())
    if html_path:
        write_report(html_path, statistics, baselines)
    broken = tables.nonfinite_table(statistics)
    if broken:
        console.print(broken)
    console.print(tables.norm_table(statistics))
    console.print(tables.weight_table(statistics))
    if other:
        console.print(tables.comparison_table(statistics, baselines))
        console.print(compare_outliers(statistics, other).finding() + ".", markup=False)


@app.command(rich_help_panel="Models", name="repair-norms")
def repair_norms(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder of a Gemma 3 text model.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    json_path: JsonOption = None,
) -> None:
    """Rescale the norm outliers so that float16 holds every activation; the function stays the same."""
    require_all_writable(json_path)
    from flows.cli.console import console
    from registry.files import write_text
    from tasks.forensics import repair

    report = repair.repair_norms(model, out)
    if json_path:
        write_text(json_path, report.model_dump_json(indent=2) + "\n")
    before, after = report.before.residual_stream, report.after.residual_stream
    said = f"residual stream scaled by {report.scale:.6g}; no activation exceeds {after:.4g} where it could reach"
    console.print(f"{out}: {said} {before:.4g}", markup=False)


@app.command(rich_help_panel="Models")
def convert(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder of a model or a LoRA adapter, or a .gguf file.")],
    out: Annotated[Path, typer.Argument(help="GGUF file to write.")],
    type_: Annotated[
        str | None, typer.Option("--type", help="Type of the matrices: f32, f16, bf16, q8_0, q5_1 … q4_0, or auto.")
    ] = None,
    embedding: Annotated[str | None, typer.Option(help="Type of the embedding; else as llama-quantize does.")] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of an adapter's base; else the one that it names.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show types and sizes, write nothing.")] = False,
    verify: Annotated[
        bool, typer.Option(help="Prove a whole model in llama.cpp, beside PyTorch, before the file gets its name.")
    ] = True,
    data: Annotated[Path | None, typer.Option(help="auto: labelled records that the files are asked.")] = None,
    budget: Annotated[str | None, typer.Option(help="auto: the largest size allowed, such as 70MB.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="auto: profile whose gates decide; else a drop of a point.")
    ] = None,
    labels: LabelsOption = None,
    threads: ThreadsOption = 0,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Convert a Hugging Face folder or a LoRA adapter to GGUF, or give a GGUF file the order that Ollama keeps."""
    from flows.cli.console import console, plan_table
    from registry.errors import UsageError
    from registry.files import write_text
    from tasks.checkpoints.folders import is_adapter
    from tasks.gguf.adapter import adapter_type, export_adapter, plan_adapter
    from tasks.gguf.type_names import quant_type
    from tasks.gguf.writer import export_gguf, plan_export

    require_all_writable(json_path, html_path)
    if model.suffix == ".gguf" and not model.is_dir():
        others = (type_, embedding, base, data, budget, profile, labels, threads, html_path)
        if plan or not verify or any(option not in (None, 0) for option in others):
            raise UsageError(f"{model.name} is put in another order and keeps its types; give no option but --json.")
        _tell_written(_reorder(model, out), json_path)
        return
    if type_ is None:
        raise UsageError("Missing option '--type': name the type of the matrices, such as q8_0, or auto.")
    if type_.lower() == "auto":
        from flows.cli.conversion import Measuring

        if embedding or base or is_adapter(model):
            raise UsageError(
                "--type auto is for whole models, and chooses the embedding's type too; omit --embedding and --base, "
                "merge an adapter."
            )
        measuring = Measuring(data=data, labels=labels, profile=profile, budget=budget, threads=threads, verify=verify)
        _convert_auto(model, out, measuring, plan=plan, json_path=json_path, html_path=html_path)
        return
    if any(option not in (None, 0) for option in (data, budget, profile, labels, threads, html_path)):
        raise UsageError("--data, --budget, --profile, --labels, --threads and --html are for --type auto; omit them.")
    options: dict[str, Any]
    if is_adapter(model):
        if embedding:
            raise UsageError("--embedding is for whole models; omit it.")
        planned, exported = plan_adapter, export_adapter
        options = {"weights": adapter_type(type_), "base": base}
    else:
        if base:
            raise UsageError("--base is for adapters; omit it.")
        planned, exported = plan_export, _export_proven if verify else export_gguf
        embedding_type = quant_type(embedding, model) if embedding else None
        options = {"weights": quant_type(type_, model), "embedding": embedding_type}
    if plan:
        found = planned(model, **options)
        if json_path:
            write_text(json_path, found.to_json())
        console.print(plan_table(found))
        return
    _tell_written(exported(model, out, **options), json_path)


def _reorder(gguf: Path, out: Path) -> "ExportReport":
    from tasks.gguf.reordering import reorder_gguf

    return reorder_gguf(gguf, out)


def _tell_written(report: "ExportReport", json_path: Path | None) -> None:
    from flows.cli.console import console
    from registry.files import write_text

    if json_path:
        write_text(json_path, report.model_dump_json(indent=2) + "\n")
    types = ", ".join(f"{count} {name}" for name, count in report.types.items())
    said = f"{report.bytes / 1e6:.1f} MB, tensors: {types}, SHA-256 {report.sha256}"
    console.print(f"{report.path}: {said}", markup=False)


def _export_proven(hf_dir: Path, out: Path, **types: Any) -> "ExportReport":
    from registry.cores import usable_cores
    from tasks.verification.proven import export_proven

    return export_proven(hf_dir, out, **types, threads=usable_cores())


def _convert_auto(
    hf_dir: Path, out: Path, measuring: "Measuring", *, plan: bool, json_path: Path | None, html_path: Path | None
) -> None:
    from flows.cli.console import console
    from tasks.type_search.report import search_table, write_search

    found = measuring.plan(hf_dir) if plan else measuring.convert(hf_dir, out)
    write_search(found, json_path=json_path, html_path=html_path)
    console.print(search_table(found))
    if not plan:
        found.require()


@app.command(rich_help_panel="Models", name="prune-vocab")
def prune_vocab(
    model: Annotated[str, typer.Argument(help="Hugging Face folder or hub id, before its training or after.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    corpus: Annotated[
        list[Path], typer.Option(help="Records and texts (.jsonl, .txt) or folders of them; may be repeated.")
    ],
    words: Annotated[int, typer.Option(min=0, help="Commonest English words whose tokens stay too.")] = 10_000,
    minimum_count: Annotated[
        int, typer.Option(min=1, help="How often the texts, repeats aside, must use a token that stays.")
    ] = 1,
    base: Annotated[
        str | None, typer.Option(help="MODEL is pruned: take further tokens from this base that it was pruned from.")
    ] = None,
    labels: LabelsOption = None,
    instruction: InstructionOption = "",
    json_path: JsonOption = None,
) -> None:
    """Drop the tokens that a corpus does not use; with --base, take back those that it does."""
    require_all_writable(json_path)
    from deployment.prompts.prompt import Prompt
    from flows.cli.console import console, vocabulary_table
    from flows.cli.evaluation import turns_of
    from registry.errors import UsageError
    from registry.files import write_text
    from tasks.checkpoints.hub import model_path
    from tasks.vocabulary.corpus import read_corpus
    from tasks.vocabulary.growth import grow_vocabulary
    from tasks.vocabulary.pruning import prune_vocabulary
    from tasks.vocabulary.recipe import VocabularyRecipe

    if out.exists():
        raise UsageError(f"{out} exists; name another folder or delete it.")
    counted, recipe = read_corpus(corpus, labels), VocabularyRecipe(words=words, minimum_count=minimum_count)
    folder = model_path(model)
    prompt = Prompt(instruction=instruction, turns=turns_of(folder))
    if base:
        report = grow_vocabulary(folder, model_path(base), out, counted, recipe, prompt=prompt)
    else:
        report = prune_vocabulary(folder, out, counted, recipe, prompt=prompt)
    if json_path:
        write_text(json_path, report.model_dump_json(indent=2) + "\n")
    console.print(vocabulary_table(report))


@app.command(rich_help_panel="Models", name="import")
def import_(
    model: Annotated[str, typer.Argument(help="GGUF file of a model, package folder or models:/NAME@ALIAS.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything.")],
    home: HomeOption = None,
) -> None:
    """Turn a GGUF file into a Hugging Face folder."""
    from flows.cli.console import console
    from flows.cli.weights import weights_of
    from tasks.gguf.reader import import_gguf

    gguf = weights_of(model, home)
    import_gguf(gguf, out)
    console.print(f"{out}: config, tokenizer and float32 weights of {gguf.name}", markup=False)
