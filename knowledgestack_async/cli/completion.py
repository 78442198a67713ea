"""``ks-async completion``: completion for a shell."""

from __future__ import annotations

import click

from .commands import Command
from .exits import Exit
from .options import Options, pass_options

__all__ = ["completion"]

_LINES = {
    "bash": 'eval "$(_KS_ASYNC_COMPLETE=bash_source ks-async)"',
    "zsh": 'eval "$(_KS_ASYNC_COMPLETE=zsh_source ks-async)"',
    "fish": "_KS_ASYNC_COMPLETE=fish_source ks-async | source",
}


@click.command(
    cls=Command,
    example="""
    ks-async completion bash >> ~/.bashrc
    ks-async completion zsh >> ~/.zshrc
    ks-async completion fish >> ~/.config/fish/completions/ks-async.fish
    """,
)
@click.argument("shell", type=click.Choice(list(_LINES)))
@pass_options
def completion(options: Options, shell: str) -> Exit:
    """Print the line that turns completion on.

    It belongs into the shell's start-up file.
    """
    options.screen.out(_LINES[shell])
    return Exit.DONE
