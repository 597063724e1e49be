import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.packages.modelfile import Modelfile, parse_modelfile, read_modelfile
from deployment.prompts.ollama_prompt import ollama_prompt
from deployment.prompts.prompt import Message, Prompt
from deployment.runtimes.decoding import AnswerLimits
from registry.errors import UsageError

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=80)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=80).filter(
    lambda text: '"""' not in text
)


def modelfile(instruction: str = "") -> Modelfile:
    return Modelfile.of("m-q8_0.gguf", Prompt(instruction=instruction), AnswerLimits(), "Terms.")


@given(instruction=ANY_TEXT, command=ANY_TEXT)
def test_the_go_template_renders_the_prompt_of_training(instruction: str, command: str) -> None:
    prompt = Prompt(instruction=instruction)
    file = modelfile(instruction)
    assert ollama_prompt(file.template, [Message("user", command)]) == prompt.render(command)


@given(instruction=ANY_TEXT, licence=TEXT)
def test_what_is_rendered_is_read_back(instruction: str, licence: str) -> None:
    file = Modelfile.of(
        "m-q8_0.gguf", Prompt(instruction=instruction), AnswerLimits(num_ctx=512, num_predict=64), licence
    )
    assert parse_modelfile(file.render()) == file


def test_answers_are_greedy_unpenalised_and_bounded() -> None:
    lines = modelfile().render().splitlines()
    assert lines[0] == "FROM ./m-q8_0.gguf"
    assert [line for line in lines if line.startswith("PARAMETER")] == [
        "PARAMETER temperature 0",
        "PARAMETER top_k 1",
        "PARAMETER repeat_penalty 1",
        'PARAMETER stop "<end_of_turn>"',
        "PARAMETER num_ctx 1024",
        "PARAMETER num_predict 256",
    ]


def test_the_instruction_stands_in_the_template_where_no_client_can_replace_it() -> None:
    file = modelfile('Say """ok""".')
    assert "SYSTEM" not in file.render()
    assert parse_modelfile(file.render()) == file
    rendered = ollama_prompt(file.template, [Message("system", "Be kind."), Message("user", "hi")])
    assert rendered == Prompt(instruction='Say """ok""".').render("hi")


def test_the_system_of_an_earlier_package_is_read() -> None:
    text = 'FROM ./a.gguf\nTEMPLATE """{{ .System }}"""\nSYSTEM """Answer with JSON."""\nPARAMETER num_ctx 512\n'
    assert parse_modelfile(text).system == "Answer with JSON."


def test_limits_are_read_back() -> None:
    limits = AnswerLimits(num_ctx=2048, num_predict=300)
    assert Modelfile.of("a.gguf", Prompt(), limits, "").limits == limits
    with pytest.raises(UsageError, match=r"Modelfile of a\.gguf sets no num_predict"):
        _ = parse_modelfile('FROM ./a.gguf\nTEMPLATE """x"""\nPARAMETER num_ctx 512\n').limits


def test_a_text_that_the_quotes_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="LICENSE of a Modelfile cannot hold"):
        Modelfile.of("a.gguf", Prompt(), AnswerLimits(), 'Say """ok""".').render()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no FROM and no TEMPLATE"),
        ("FROM ./a.gguf\n", "no TEMPLATE"),
        ('FROM ./a.gguf\nTEMPLATE """{{ .Prompt }}\n', "TEMPLATE has no closing quotes"),
        ("FORM ./a.gguf\n", "unknown instruction 'FORM'"),
    ],
)
def test_another_text_is_refused_with_the_reason(tmp_path, text: str, reason: str) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_modelfile(path)


def test_a_missing_modelfile_is_one_sentence(tmp_path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_modelfile(tmp_path / "Modelfile")
