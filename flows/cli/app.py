"""Application to which the commands are added, and its error messages."""

import shlex
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from flows.environment import prepare_environment
from flows.output import guard_streams
from flows.startup import quick_exit
from flows.unforeseen import report_unforeseen
from neuroscope.errors import NeuroscopeError, Option


class Group(TyperGroup):
    """Group of commands that reports an error as one message on stderr and an exit code."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name, which may have two words."""
        name = " ".join(args[:2])
        if len(args) > 1 and name in self.commands:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command; report its error with the options that this command has."""
        try:
            prepare_environment()
            return super().invoke(ctx)
        except NeuroscopeError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            print(f"error: {error.message(command_spelling(command))}", file=sys.stderr)
            ctx.exit(error.exit_code)
        except typer.BadParameter as error:
            error.message = _reworded(error)
            raise


def _reworded(error: typer.BadParameter) -> str:
    """Return why a value is refused; typer uses the words of pydantic."""
    from pydantic import ValidationError

    from neuroscope.experiment_faults import expectation
    from neuroscope.options import choices, unknown_choice

    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return error.message
    reported = cause.errors()[0]
    descriptor = getattr(error.param, "type_descriptor", None)
    known = choices(getattr(descriptor, "annotation", None))
    if known and all(isinstance(choice, str) for choice in known):
        name = str(error.param and error.param.name).replace("_", " ")
        return unknown_choice(name, str(reported["input"]), known)
    return expectation(reported)


def command_spelling(command: Any) -> Callable[[Option], str | None]:
    """Return a function that spells settings as options of a command, such as `--dtype float32`.

    It returns None for settings that the command lacks.
    """
    parameters = {
        parameter.name: parameter
        for parameter in getattr(command, "params", ())
        if parameter.opts[0].startswith("--")
    }

    def spell(option: Option) -> str | None:
        # the parameter `no_label_columns`, whose flag is --no-labels, stands for an empty list
        name = f"no_{option.name}" if option.value == [] else option.name
        parameter = parameters.get(name)
        if parameter is None:
            return None
        if isinstance(option.value, bool) or option.value == []:
            flags = parameter.secondary_opts if option.value is False else parameter.opts
            return flags[0] if flags else None
        return f"{parameter.opts[0]} {shlex.quote(str(option.value))}"

    return spell


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; an unforeseen error becomes one sentence and exit code 70."""
    guard_streams()
    quick_exit()
    try:
        app()
    except NeuroscopeError as error:  # outside a command, such as help that cannot be written
        _report(error)
    except Exception as error:
        sys.exit(report_unforeseen(error))
    finally:
        _flush()


def _flush() -> None:
    """Write what is still buffered; this may fail for the first time here."""
    try:
        sys.stdout.flush()
    except NeuroscopeError as error:
        _report(error)


def _report(error: NeuroscopeError) -> NoReturn:
    """Print an error and end the program with its exit code."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
