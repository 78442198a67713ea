"""``ks-async doctor``: what the way to the server is like, and what to do where it is bad."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version

import attrs
import click

import knowledgestack_async as ks

from .checkup import Finding, Verdict, finding_of, look_at_server
from .commands import Command
from .connection import run_with_session
from .credentials import find_key
from .exits import Exit, worst
from .options import Options, pass_options, printing
from .output import Printer, Shape, printer_for
from .table import Column, Record
from .text import clean, wrap

__all__ = ["doctor"]

SHAPE = Shape(
    fields=("check", "verdict", "found", "advice"),
    columns=tuple(
        Column(title=name.upper(), fields=(name,)) for name in ("check", "verdict", "found")
    ),
    id_field="check",
)

_MARKS = {Verdict.OK: ("✓", "green"), Verdict.SLOW: ("!", "yellow"), Verdict.WRONG: ("✗", "red")}


@click.command(
    cls=Command,
    example="""
    ks-async doctor
    ks-async doctor --base-url https://ks.example.com --api-key-file ~/.ks-key
    """,
)
@printing
@pass_options
def doctor(options: Options) -> Exit:
    """Check the way to the server.

    Looks at the base URL, the key, the dialect, the latency and the clocks, and says what to
    do about each thing that is wrong. Exits with 0 if nothing is.
    """
    printer = printer_for(options, SHAPE, "sheet")
    if options.output == "table" and not options.fields:
        printer = _Report(options.screen, SHAPE)
    codes: list[Exit] = []

    def note(finding: Finding) -> None:
        codes.append(finding.code)
        printer.write(attrs.asdict(finding, filter=lambda field, _: field.name in SHAPE.fields))

    with printer:
        _look(options, note)
    return worst(codes)


def _look(options: Options, note: Callable[[Finding], None]) -> None:
    """Go from the near to the far, as far as it goes."""
    note(Finding("versions", Verdict.OK, _versions()))
    try:
        source = "the sandbox's own" if options.sandbox else find_key(options).source
    except click.UsageError as error:
        what, _, advice = error.message.partition(": ")
        note(Finding("API key", Verdict.WRONG, what, advice, Exit.USAGE))
        return

    async def work(session: ks.Session) -> Exit:
        note(Finding("base URL", Verdict.OK, f"{session.base_url}, from {_url_source(options)}"))
        note(Finding("API key", Verdict.OK, f"from {source}"))
        try:
            async for finding in look_at_server(session):
                note(finding)
        except ks.KnowledgeStackError as error:
            note(finding_of(error))
        return Exit.DONE

    try:
        run_with_session(options, work)
    except ks.ConfigurationError as error:
        note(finding_of(error, "settings"))


def _versions() -> str:
    return (
        f"ks-async {ks.__version__}, Python {platform.python_version()}, "
        f"aiohttp {version('aiohttp')}, {platform.system()}"
    )


def _url_source(options: Options) -> str:
    if options.sandbox:
        return "the sandbox"
    if options.base_url is not None:
        return "--base-url"
    return "KS_BASE_URL" if os.environ.get("KS_BASE_URL") else "the default"


class _Report(Printer):
    """A mark, what was looked at, what was found; and what to do about it."""

    def write(self, record: Record) -> None:
        mark, color = _MARKS[Verdict(record["verdict"])]
        self._out(f"{record['check']:<9} {record['found']}", mark, color, 2)
        if record["advice"]:
            self._out(record["advice"], "→", color, 14)

    def _out(self, text: str, mark: str, color: str, indent: int) -> None:
        screen = self._screen
        width = screen.width if screen.is_terminal else 1000
        line, *more = wrap(f"{'':{indent}}{clean(text)}", width, " " * 12)
        screen.out(line[: indent - 2] + screen.style(mark, color) + line[indent - 1 :])
        for line in more:
            screen.out(line)
