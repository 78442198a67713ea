"""Commands and groups as this command line has them: lazily imported, with an example each."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from .options import connection_options

__all__ = ["Command", "Group"]

_ALSO = "The options of ks-async itself (ks-async --help), such as --sandbox, are taken here too."


class Command(click.Command):
    """A command with an example, which takes the options of ``ks-async`` itself too.

    Args:
        args: What click's command takes.
        example: Lines of a shell.
        settings: What click's command takes.
    """

    def __init__(self, *args: Any, example: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.example = example
        self.params.extend(connection_options(hidden=True))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the example behind the options."""
        _write_example(formatter, self.example)
        formatter.write_paragraph()
        formatter.write_text(_ALSO)


class Group(click.Group):
    """A group whose commands are imported when they are used.

    Args:
        args: What click's group takes.
        lazy: The commands by name: the module in this package, a colon, and the name in it.
        example: Lines of a shell.
        settings: What click's group takes.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, str], example: str = "", **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.lazy = lazy
        self.example = example

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands' names, in the order in which they were given."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None if there is none of this name."""
        if cmd_name not in self.lazy:
            return None
        module, name = self.lazy[cmd_name].split(":")
        found: click.Command = getattr(import_module(f".{module}", __package__), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; of one that is mistyped say which one may be meant.

        Raises:
            click.UsageError: There is none of this name.
        """
        name = args[0]
        if name not in self.lazy and not name.startswith("-") and not ctx.resilient_parsing:
            close = get_close_matches(name, self.lazy)
            meant = f" Did you mean {' or '.join(close)}?" if close else ""
            ctx.fail(f"No such command {name!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, and what else there is to say, behind the commands."""
        _write_example(formatter, self.example)
        super().format_epilog(ctx, formatter)


def _write_example(formatter: click.HelpFormatter, example: str) -> None:
    lines = example.strip().splitlines()
    with formatter.section("Example" if len(lines) == 1 else "Examples"):
        for line in lines:
            formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")
