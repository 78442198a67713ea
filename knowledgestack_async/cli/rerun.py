"""``ks-async ingestions rerun``: running ingestions again, each once."""

from __future__ import annotations

import click

import knowledgestack_async as ks

from .commands import Command
from .exits import Exit
from .ids import ids_argument, ids_if_meant, is_single, yes_option
from .many import AT_ONCE, run_for_each
from .options import Options, pass_options, printing
from .output import Shape, printer_for
from .table import Column

__all__ = ["rerun"]

ACTION = Shape.of(
    ks.WorkflowActionResponse,
    Column(title="WORKFLOW", fields=("workflow_id",)),
    Column(title="ACTION", fields=("action",), typical=5),
    Column(title="MESSAGE", fields=("message",), least=20, rank=1, typical=40),
)


@click.command(
    cls=Command,
    example="""
    ks-async ingestions rerun ingest-01JBA411C697A396D497691DFE
    ks-async ingestions list -s failed -o ids | ks-async ingestions rerun - --yes
    """,
)
@ids_argument
@yes_option
@click.option(
    "--concurrency",
    type=click.IntRange(1, 100),
    metavar="N",
    default=AT_ONCE,
    show_default=True,
    help="How many to send at a time.",
)
@printing
@pass_options
def rerun(options: Options, ids: tuple[str, ...], yes: bool, concurrency: int) -> Exit:
    """Run ingestions again.

    Each is sent once: again only where the server can't have acted. Where no answer
    tells whether it acted, that is exit code 5: look at its state before you repeat it.
    """
    wanted = ids_if_meant(options, ids, "Run {} again?", "ingestion", yes=yes)
    if wanted is None:
        return Exit.FAILED
    printer = printer_for(options, ACTION, "lines", ids=wanted, single=is_single(ids))
    return run_for_each(
        options, wanted, ks.rerun_ingestion_workflow, printer, acts=True, at_once=concurrency
    )
