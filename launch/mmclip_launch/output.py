"""Standard output of the verbs that draw tables there."""

from rich.console import Console


class Output(Console):
    """A console whose closed pipe ends the command quietly, in `run_verb`: rich itself would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
