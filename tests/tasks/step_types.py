"""What pyright must refuse of a step's callers; read by `make check`, never run.

An ignored error that is none any more is an error itself.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

from tasks.steps import StepContext, Steps, outside, step


@step
def press(step: StepContext, clay: str, times: int = 1) -> list[str]: ...


@outside(minutes=1)
def order(clay: str) -> int: ...


def calls(steps: Steps) -> None:
    assert_type(steps.run(press, "red", times=2), list[str])
    assert_type(steps.run(press.titled("press a brick"), clay="red"), list[str])
    steps.run(press, clay="red", time=2)  # pyright: ignore[reportCallIssue]
    steps.run(press, clay=1)  # pyright: ignore[reportArgumentType]
    steps.run(press, times=2)  # pyright: ignore[reportCallIssue]
    steps.run(press, clay="red", title="press a brick")  # pyright: ignore[reportCallIssue]
    assert_type(order("red"), int)
    order(clay=1)  # pyright: ignore[reportArgumentType]


@step  # pyright: ignore[reportArgumentType]
def without_context(clay: str) -> None: ...
