"""The options that every command takes, before and after its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import attrs
import click

from .screen import Screen

__all__ = [
    "Decorator",
    "Options",
    "OptionsPasser",
    "connection_options",
    "output_options",
    "pass_options",
    "printing",
    "printing_events",
]

F = TypeVar("F", bound=Callable[..., Any])
CommandT = TypeVar("CommandT", bound=Callable[..., Any] | click.Command)
P = ParamSpec("P")
T = TypeVar("T")

Output = Literal["table", "json", "ndjson", "ids"]


@attrs.define(slots=False)
class Options:
    """What was asked of this run besides its command."""

    base_url: str | None = None
    api_key_file: Path | None = None
    token: str | None = attrs.field(default=None, repr=False)
    """A credential that a command was given for itself; it needs no API key then."""
    dialect: str | None = None
    timeout: float | None = None
    sandbox: bool = False
    allow_plain_http: bool = False
    debug: bool = False
    no_color: bool = False
    output: Output = "table"
    is_output_chosen: bool = False
    fields: tuple[str, ...] = ()

    def print_events(self) -> None:
        """What happens is printed as NDJSON in a pipe, unless something else was asked for."""
        if not self.is_output_chosen and not self.screen.is_terminal:
            self.output = "ndjson"

    @cached_property
    def screen(self) -> Screen:
        """The streams, as they are to be used."""
        return Screen(allow_color=not self.no_color)


class Decorator(Protocol):
    """Gives a command an option or argument."""

    def __call__(self, command: CommandT, /) -> CommandT:
        """Give it."""
        ...


class OptionsPasser(Protocol):
    """Gives a command's function the options as its first argument."""

    def __call__(self, function: Callable[Concatenate[Options, P], T], /) -> Callable[P, T]:
        """Give them."""
        ...


pass_options: OptionsPasser = click.make_pass_decorator(Options)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep what was given; after a command's name it counts more than before it."""
    if value is not None:
        setattr(ctx.ensure_object(Options), str(param.name), value)


def _remember_output(ctx: click.Context, param: click.Parameter, value: Output | None) -> None:
    _remember(ctx, param, value)
    if value is not None:
        ctx.ensure_object(Options).is_output_chosen = True


def _remember_fields(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    fields = tuple(name.strip() for name in value.split(",") if name.strip())
    if not fields:
        raise click.BadParameter("name at least one field, such as --fields workflow_id,status")
    _remember(ctx, param, fields)


def _option(*names: str, **settings: Any) -> click.Option:
    known: dict[str, Any] = {"callback": _remember, "expose_value": False, "default": None}
    return click.Option(names, **(known | settings))


def connection_options(*, hidden: bool) -> list[click.Option]:
    """How to reach a server, and how to talk about it; hidden where they only clutter the help."""
    flag: dict[str, Any] = {"is_flag": True, "flag_value": True, "hidden": hidden}
    return [
        _option("--base-url", metavar="URL", hidden=hidden, help="The server. [env: KS_BASE_URL]"),
        _option(
            "--api-key-file",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            hidden=hidden,
            help="A file that holds the API key. [else env: KS_API_KEY]",
        ),
        _option(
            "--dialect",
            type=click.Choice(
                ["auto", "documented", "offset", "system-jobs-unfiltered", "system-jobs"]
            ),
            hidden=hidden,
            help="The generation of the API; found out by itself. [default: auto]",
        ),
        _option(
            "--timeout",
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True),
            hidden=hidden,
            help="For one try of one request. [default: 30]",
        ),
        _option("--sandbox", **flag, help="Use an embedded sandbox, started for this command."),
        _option("--allow-plain-http", **flag, help="Let http:// be used to other machines."),
        _option("--debug", **flag, help="Log every request, and show tracebacks."),
        _option("--no-color", **flag, help="No colors. [also env: NO_COLOR]"),
    ]


def output_options(default: str = "table") -> list[click.Option]:
    """How results are printed.

    Args:
        default: What the help says that the default is.
    """
    return [
        _option(
            "--output",
            "-o",
            type=click.Choice(["table", "json", "ndjson", "ids"]),
            callback=_remember_output,
            help="How to print. In a pipe a table has tabs, and nothing is cut. "
            f"[default: {default}]",
        ),
        _option(
            "--fields",
            metavar="A,B,C",
            callback=_remember_fields,
            help="Print these fields only; uploader.first_name reaches inside one.",
        ),
    ]


def printing(command: F) -> F:
    """Give a command ``--output`` and ``--fields``."""
    return _give(command, output_options())


def printing_events(command: F) -> F:
    """Give these to a command that prints what happens, which in a pipe is NDJSON by default."""
    return _give(command, output_options("table, ndjson in a pipe"))


def _give(command: F, options: list[click.Option]) -> F:
    for option in reversed(options):
        _add(command, option)
    return command


def _add(command: Callable[..., Any], option: click.Option) -> None:
    # The place where click's own decorators keep the options of a function.
    command.__dict__.setdefault("__click_params__", []).append(option)
