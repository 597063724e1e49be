from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.packages.modelfile import Modelfile
from deployment.prompts.ollama_prompt import ollama_prompt
from deployment.prompts.parity import COMMANDS, chats, rendered_otherwise, tried_chats
from deployment.prompts.prompt import Message, Prompt, ollama_template, prompt_of
from deployment.prompts.turns import Turns
from deployment.runtimes.decoding import AnswerLimits
from registry.errors import UsageError

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
CONTROLS = {
    Turns.GEMMA: ("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<unused12>"),
    Turns.CHATML: ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>", "<jupyter_code>"),
}
every_format = pytest.mark.parametrize("form", list(Turns))
EXCHANGE = "[{{ .System }}|{{ .Prompt }}|{{ .Response }}]"
USER, MODEL = Message("user", "hi"), Message("assistant", "ho")


@every_format
@given(command=TEXT, earlier=st.lists(TEXT, max_size=8), system=TEXT, instruction=TEXT)
def test_our_template_renders_the_last_command_of_any_chat(
    form: Turns, command: str, earlier: list[str], system: str, instruction: str
) -> None:
    prompt = Prompt(instruction=instruction, turns=form)
    modelfile = Modelfile.of("a.gguf", prompt, AnswerLimits(), "")
    history = [Message("user" if number % 2 else "assistant", text) for number, text in enumerate(earlier, start=1)]
    chat = [Message("system", system), *history, Message("assistant", "{}"), Message("user", command)]
    assert ollama_prompt(modelfile.template, chat, system="You are a helpful assistant.") == prompt.render(command)


@every_format
@pytest.mark.parametrize(
    "instruction", ["", "Answer with JSON.", ' say """ok""" {{ .System }} \\ <end_of_turn>\n\nnow ']
)
def test_a_prompt_is_known_by_what_it_renders(form: Turns, instruction: str) -> None:
    prompt = Prompt(instruction=Prompt(turns=form).plain_text(instruction), turns=form)
    assert prompt_of(prompt.render("")) == prompt
    assert prompt_of("[INST]" + prompt.render("")) is None


@every_format
@given(data=st.data())
def test_a_typed_control_token_stays_text(form: Turns, data: st.DataObject) -> None:
    typed = "".join(data.draw(st.lists(st.sampled_from([*CONTROLS[form], "<", " ", "\n", "x"]), max_size=12)))
    prompt = Prompt(turns=form)
    found = ollama_prompt(ollama_template(prompt), [Message("user", typed)])
    body = found.removeprefix(prompt.prefix).removesuffix(prompt.suffix)
    assert len(body) == len(found) - len(prompt.prefix) - len(prompt.suffix)
    assert not [control for control in CONTROLS[form] if control in body]


def test_the_chats_that_are_tried_hold_what_users_type_and_clients_add() -> None:
    typed = "".join(COMMANDS)
    assert all(text in typed for text in ("<end_of_turn>", "<start_of_turn>model", "{{", '"""', "\n\n", "\t"))
    found = [[message.role for message in chat] for chat in chats("hi")]
    assert {(roles.count("user"), roles.count("system")) for roles in found} == {
        (turns, system) for turns in (1, 2, 4, 9) for system in (0, 1)
    }
    assert all(chat[-1] == Message("user", "hi") for chat in chats("hi"))
    tried = list(tried_chats(COMMANDS))
    assert {len(chat) for chat in tried} == {len(chat) for chat in chats("hi")}
    assert {chat[-1].content for chat in tried if len(chat) == 1} == set(COMMANDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda template: template.replace("model", "assistant"),
        lambda template: template.replace('"user"', '"assistant"'),  # the last answer
        lambda template: template.replace("$command = .Content", "$command = print $command .Content"),  # all turns
        lambda template: "{{ .System }}" + template,
    ],
    ids=["role", "answer", "history", "system"],
)
def test_another_template_is_found(change: Callable[[str], str]) -> None:
    modelfile = Modelfile.of("a.gguf", Prompt(), AnswerLimits(), "")
    wrong = replace(modelfile, template=change(modelfile.template))
    assert wrong.template != modelfile.template
    assert rendered_otherwise(modelfile, Prompt(), COMMANDS) is None
    assert rendered_otherwise(wrong, Prompt(), COMMANDS) is not None


@pytest.mark.parametrize(
    ("given_messages", "expected"),
    [
        ([USER], "[|hi|"),
        ([Message("system", "S"), USER], "[S|hi|"),
        ([USER, MODEL, Message("user", "2")], "[|hi|ho][|2|"),
        ([Message("system", "S"), USER, MODEL, Message("user", "2"), MODEL], "[S|hi|ho][|2|ho"),
        ([USER, Message("user", "2")], "[|hi\n\n2|"),
        ([USER, Message("system", "S"), MODEL], "[|hi|][S||ho"),
        ([Message("system", "S"), Message("system", "T"), USER], "[S\n\nT|hi|"),
    ],
)
def test_a_template_without_messages_runs_once_an_exchange(given_messages: list[Message], expected: str) -> None:
    assert ollama_prompt(EXCHANGE, given_messages) == expected


def test_a_template_with_messages_runs_once_with_all_system_texts() -> None:
    template = "{{ .System }}:{{ range .Messages }}({{ .Role }} {{ .Content }}){{ end }}{{ .Response }}after"
    found = ollama_prompt(template, [Message("system", "S"), USER, Message("system", "T"), USER, USER])
    assert found == "S\n\nT:(system S)(user hi)(system T)(user hi\n\nhi)after"


def test_the_modelfiles_system_gives_way_to_the_conversations_own() -> None:
    assert ollama_prompt(EXCHANGE, [USER], system="mine") == "[mine|hi|"
    assert ollama_prompt(EXCHANGE, [Message("system", "yours"), USER], system="mine") == "[yours|hi|"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ .Prompt }}", "hi"),  # Ollama appends .Response
        ("{{ .Prompt }} {{ if .Response }}a{{ end }}{{ .Response }}b", "hi "),
        ('{{ .Prompt }}{{ print .Response "x" }}y', "hi"),
        ("{{ .Prompt }}{{ .Response | print }}y", "hi"),
        ("{{ .Prompt }}{{ if .Prompt }}<{{ .Response }}>{{ end }}y", "hi<"),
        ("{{ .Prompt }}{{ print (print .Response) }}y", "hi"),
    ],
)
def test_the_last_exchange_is_cut_after_its_response(template: str, expected: str) -> None:
    assert ollama_prompt(template, [USER]) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ if .Prompt }}{{ .Response }}{{ else }}x{{ end }}", "Ollama fails on a .Response in an action"),
        ("{{ json .Prompt }}{{ .Response }}", "json only where the template names .Messages"),
        ('{{ define "a" }}{{ end }}{{ template "a" }}{{ .Response }}', "no template is called 'a'"),
        ("{{ range .Messages }}{{ .Nope }}{{ end }}", "no field Nope"),
    ],
)
def test_what_ollama_fails_on_is_refused(template: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ollama_prompt(template, [USER])
