import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from small_package import CARD, GOLDEN, LABELS, NAME, gguf_file, make_package, small_gguf

from deployment.answers.rules import default_rules
from deployment.packages import modelfile
from deployment.packages.licence import apache_licence, gemma_licence
from deployment.packages.package import build_package, verify_package
from deployment.prompts.prompt import Prompt
from registry.artifacts import Artifact, write_checksums
from registry.errors import GateBlocked, UsageError
from registry.records import load_label_set, response_schema


def test_a_package_holds_what_a_device_and_its_owner_need(tmp_path: Path) -> None:
    package = make_package(tmp_path, instruction="Answer with JSON.")
    assert sorted(path.name for path in package.path.iterdir()) == [
        "LICENSE",
        "Modelfile",
        "NOTICE",
        "README.md",
        "SHA256SUMS",
        "answers.json",
        f"{NAME}-q8_0.gguf",
        "golden.jsonl",
        "labels.toml",
        "response.schema.json",
    ]
    assert package.prompt == Prompt(instruction="Answer with JSON.")
    assert load_label_set(package.path / "labels.toml") == LABELS == package.labels
    assert json.loads((package.path / "response.schema.json").read_text()) == response_schema(LABELS)
    assert [(item.command, item.answer) for item in package.golden] == list(GOLDEN)


def test_sha256sum_agrees_with_the_checksums(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=package.path, check=True)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_package(tmp_path / "a"), make_package(tmp_path / "b")
    assert Artifact.of("package", first.path).sha256 == Artifact.of("package", second.path).sha256


def test_a_package_can_be_built_over_an_older_one(tmp_path: Path) -> None:
    make_package(tmp_path, content=b"GGUF old")
    assert make_package(tmp_path, content=b"GGUF new").gguf.read_bytes() == b"GGUF new"


def test_the_model_card_tells_data_metrics_gates_and_digests(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    card = (package.path / "README.md").read_text()
    assert card.index("The file in this package:") < card.index("Teacher:")
    for line in (
        "- Base: gemma-3-270m",
        "- Licence of the weights: Gemma Terms of Use",
        "- Train: 1,892 records",
        "- exact_match: 0.915",
        "- oos_recall: undefined",
        "- exact match: passed, 0.915 where 0.85 is asked",
        f"- snapshot_sha256: `{'ab' * 32}`",
        f"- gguf_sha256: `{package.gguf_sha256}`",
    ):
        assert line in card.splitlines()


def test_the_gemma_terms_travel_with_what_derives_from_gemma(tmp_path: Path) -> None:
    terms = tmp_path / "GEMMA_TERMS.html"
    terms.write_text("the whole terms")
    package = make_package(tmp_path, licence=gemma_licence(terms))
    sentence = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    for name in ("LICENSE", "NOTICE", "Modelfile"):
        assert sentence in (package.path / name).read_text()
    assert (package.path / "GEMMA_TERMS.html").read_text() == "the whole terms"
    assert "holds a copy of the terms: GEMMA_TERMS.html." in (package.path / "LICENSE").read_text()


def test_a_package_without_the_gemma_terms_says_so(tmp_path: Path) -> None:
    package = make_package(tmp_path, licence=gemma_licence())
    for name in ("LICENSE", "Modelfile"):
        assert "holds no copy of the terms" in (package.path / name).read_text()


def test_a_model_from_scratch_carries_no_gemma_notice(tmp_path: Path) -> None:
    package = make_package(tmp_path, licence=apache_licence(derived=False))
    for name in ("LICENSE", "NOTICE", "Modelfile"):
        assert "Gemma Terms" not in (package.path / name).read_text()
    assert "Apache License, Version 2.0" in (package.path / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / f"{NAME}-q8_0.gguf").write_bytes(b"GGUF other"), r"q8_0.gguf has changed"),
        (lambda folder: (folder / "NOTICE").unlink(), "NOTICE is missing"),
        (lambda folder: (folder / "extra.py").write_text("import os"), r"extra.py is not listed"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "no readable SHA256SUMS"),
    ],
)
def test_a_damaged_package_is_refused(tmp_path: Path, damage, reason: str) -> None:
    package = make_package(tmp_path)
    damage(package.path)
    with pytest.raises(UsageError, match=reason):
        verify_package(package.path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda folder: (folder / f"{NAME}-q8_0.gguf").rename(folder / "b.gguf"),
            "which its Modelfile names",
        ),
        (lambda folder: (folder / "golden.jsonl").write_text(""), "no prompt to try"),
        (lambda folder: (folder / "golden.jsonl").write_text("{}\n"), r"golden.jsonl cannot be read"),
        (lambda folder: (folder / "golden.jsonl").unlink(), r"golden.jsonl cannot be read"),
    ],
)
def test_a_package_that_does_not_fit_together_is_refused(tmp_path: Path, change, reason: str) -> None:
    package = make_package(tmp_path)
    change(package.path)
    write_checksums(package.path)
    with pytest.raises(UsageError, match=reason):
        verify_package(package.path)


def build(out: Path, gguf: Path, golden=GOLDEN) -> None:
    build_package(
        out,
        name=NAME,
        gguf=gguf,
        labels=LABELS,
        rules=default_rules(LABELS),
        prompt=Prompt(),
        golden=golden,
        card=CARD,
        licence=apache_licence(derived=False),
    )


def test_a_golden_prompt_may_hold_any_line_separator(tmp_path: Path) -> None:
    golden = (("Leak\u2028at\x85SG-402", GOLDEN[0][1]), *GOLDEN)
    build(tmp_path / "out", gguf_file(tmp_path), golden=golden)
    assert [(item.command, item.answer) for item in verify_package(tmp_path / "out").golden] == list(golden)


def test_nothing_is_packaged_without_a_file_or_without_golden_prompts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="export the model to GGUF"):
        build(tmp_path / "out", tmp_path / "missing.gguf")
    with pytest.raises(UsageError, match="needs golden prompts"):
        build(tmp_path / "out", gguf_file(tmp_path), golden=())
    assert not (tmp_path / "out").exists()


def test_a_modelfile_that_renders_otherwise_than_training_is_not_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelfile, "ollama_template", lambda prompt: "{{ .System }}{{ .Prompt }}{{ .Response }}")
    with pytest.raises(GateBlocked, match=r"q8_0\.gguf renders '' after 0 messages otherwise than training did"):
        build(tmp_path / "out", gguf_file(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_modelfile_that_a_client_can_make_sample_is_not_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelfile, "GREEDY", {"temperature": 0, "repeat_penalty": 1})
    with pytest.raises(GateBlocked, match=r"q8_0\.gguf does not answer greedily: \{'temperature': 0, 'repeat_penalty'"):
        build(tmp_path / "out", gguf_file(tmp_path))
    assert not (tmp_path / "out").exists()


def test_the_instruction_of_an_earlier_package_is_its_system_text(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    template = (
        '<start_of_turn>user\n{{ if .System }}{{ .System }}{{ "\\n\\n" }}{{ end }}{{ range .Messages }}'
        '{{ if eq .Role "user" }}{{ .Content }}{{ end }}{{ end }}<end_of_turn>\n<start_of_turn>model\n'
    )
    old = replace(package, modelfile=replace(package.modelfile, template=template, system="Answer with JSON."))
    assert old.prompt == Prompt(instruction="Answer with JSON.")


def test_a_template_of_another_making_is_refused(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    foreign = replace(package, modelfile=replace(package.modelfile, template="[INST]{{ .Prompt }}[/INST]"))
    with pytest.raises(UsageError, match="has no turns of a known format"):
        _ = foreign.prompt


def test_a_file_on_another_file_system_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert make_package(tmp_path).gguf.read_bytes() == small_gguf("weights")
