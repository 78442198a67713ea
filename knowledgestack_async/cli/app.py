"""The root of the command line, and how a run of it ends."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import click

import knowledgestack_async as ks

from .commands import Group
from .exits import Exit, exit_for, explain
from .options import Options, connection_options, output_options
from .streams import forget_output, standard_streams

__all__ = ["app", "run"]

_EPILOG = """\b
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 not
allowed (401, 403), 5 unknown outcome (it may have acted), 130 interrupted.
Where several ids fare differently, the worst decides: 5, 4, 2, 1, 3, 0.

\b
Completion: eval "$(ks-async completion bash)", or zsh, or
ks-async completion fish | source. To try things out without a key or a
server: ks-async demo, and --sandbox with any command.
"""

_UNFORESEEN = "Nobody foresaw this: please report it, with what --debug shows."

_FROM_SYSTEM = "This machine says so, not the server; what was printed may not be whole."

_HELP = "Knowledge Stack on the command line: ingestions, workflows and workflow runs."


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"ks-async {ks.__version__}")
        ctx.exit()


class OutputGone(Exception):
    """Nobody reads what is printed. Not an OSError, which click would make an exit code of."""


@contextmanager
def _noticing_closed_pipes() -> Generator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputGone from error


class Root(Group):
    """The root; click's own way with a closed pipe is the exit code 1, and here it is no error."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the arguments."""
        with _noticing_closed_pipes():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _noticing_closed_pipes():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


app: Root = Root(
    "ks-async",
    help=_HELP,
    epilog=_EPILOG,
    params=[
        *connection_options(hidden=False),
        *output_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version.",
        ),
    ],
    lazy={
        "ingestions": "ingestions:ingestions",
        "workflows": "workflows:workflows",
        "runs": "runs:runs",
        "jobs": "jobs:jobs",
        "watch": "watch:watch",
        "monitor": "monitor:monitor",
        "demo": "demo:demo",
        "sandbox": "sandbox:sandbox",
        "doctor": "doctor:doctor",
        "completion": "completion:completion",
    },
    example="""
    ks-async ingestions list --status failed
    ks-async ingestions rerun --status failed
    ks-async watch --status processing
    """,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def run(args: Sequence[str] | None = None) -> int:
    """Run a command line, whatever comes of it.

    Args:
        args: The arguments; default: the process's.

    Returns:
        The exit code.
    """
    options = Options()
    with standard_streams():
        try:
            code = app.main(args, prog_name="ks-async", standalone_mode=False, obj=options)
        except OutputGone:
            forget_output()
            return Exit.DONE
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - it is said, in one place
            return _end(options, error)
        return code if isinstance(code, int) else Exit.DONE


def _end(options: Options, error: BaseException) -> int:
    """Say what went wrong, and which exit code that is."""
    if options.debug:
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        options.screen.complain(_explain_usage(error))
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        options.screen.note("Interrupted.")
        return Exit.INTERRUPTED
    if isinstance(error, ks.KnowledgeStackError):
        options.screen.complain(explain(error))
        return exit_for(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        options.screen.complain([f"Error: {error.strerror}{where}", f"  {_FROM_SYSTEM}"])
        return Exit.FAILED
    options.screen.complain([f"Error: {type(error).__name__}: {error}", f"  {_UNFORESEEN}"])
    return Exit.FAILED


def _explain_usage(error: click.ClickException) -> list[str]:
    lines = [f"Error: {error.format_message()}"]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        lines.append(f"  See {error.ctx.command_path} --help.")
    return lines
