import pytest

from deployment.runtimes.decoding import AnswerLimits, Longest
from registry.errors import UsageError

ASKED = {"context": 1024, "max_new_tokens": 192}


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (Longest(prompt=40, answer=60, context=32_768), AnswerLimits(num_ctx=1024, num_predict=192)),
        (Longest(prompt=700, answer=60, context=32_768), AnswerLimits(num_ctx=1792, num_predict=192)),
        (Longest(prompt=700, answer=300, context=32_768), AnswerLimits(num_ctx=2048, num_predict=600)),
        (Longest(prompt=700, answer=300, context=1500), AnswerLimits(num_ctx=1500, num_predict=600)),
        (Longest(prompt=700, answer=300, context=1100), AnswerLimits(num_ctx=1100, num_predict=400)),
    ],
)
def test_a_context_has_room_for_twice_the_longest_record(longest: Longest, expected: AnswerLimits) -> None:
    assert longest.limits(**ASKED) == expected


def test_a_model_that_was_made_for_less_than_the_longest_command_is_refused() -> None:
    with pytest.raises(UsageError, match=r"takes 900 tokens and the longest answer 125, the model was made for 1,024 "):
        Longest(prompt=900, answer=125, context=1024).limits(**ASKED)


def test_a_command_fits_to_the_last_token() -> None:
    limits = AnswerLimits(num_ctx=512, num_predict=100)
    assert limits.refusal("check pump", 412) == ""
    assert limits.refusal("check the pump at the end of the hall, line 7", 2413) == (
        "The command 'check the pump at the end of the hall, l…' is 2,001 tokens too long: its prompt takes 2,413 and "
        "an answer up to 100 of a context of 512; shorten it or raise the context."
    )


def test_a_prompt_that_fills_the_context_leaves_no_room_for_an_answer() -> None:
    assert "is 1 token too long: its prompt takes 512 of a context of 512" in AnswerLimits(
        num_ctx=512, num_predict=0
    ).refusal("check pump", 512)
