"""Names in a template: every function and variable is known where it stands, as Go asks."""

from deployment.prompts.go_template.functions import FUNCTIONS
from deployment.prompts.go_template.nodes import (
    Action,
    Branch,
    Call,
    Node,
    Pipe,
    refusal,
)


def check_names(nodes: tuple[Node, ...], variables: list[str]) -> None:
    """Refuse unknown functions and undeclared variables, also where they would not be reached."""
    for node in nodes:
        if isinstance(node, Action):
            _check_pipe(node.pipe, variables)
        elif isinstance(node, Branch):
            inside = [*variables]
            _check_pipe(node.pipe, inside)
            check_names(node.body, inside)
            check_names(node.otherwise or (), inside)
        elif isinstance(node, Call) and node.pipe:
            _check_pipe(node.pipe, variables)


def _check_pipe(pipe: Pipe, variables: list[str]) -> None:
    if pipe.assigns and (unknown := set(pipe.variables) - set(variables)):
        raise refusal(f"the variable {min(unknown)} is not declared")
    for operand in (operand for command in pipe.commands for operand in command):
        if isinstance(operand.value, Pipe):
            _check_pipe(operand.value, variables)
        elif operand.of == "variable" and operand.value not in variables:
            raise refusal(f"the variable {operand.value} is not declared")
        elif operand.of == "function" and operand.value not in FUNCTIONS and operand.value not in ("and", "or"):
            raise refusal(f"the function {operand.value} is not known here")
    variables.extend(pipe.variables)
