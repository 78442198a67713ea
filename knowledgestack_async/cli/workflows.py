"""``ks-async workflows``: the executions of any workflow."""

from __future__ import annotations

import click

import knowledgestack_async as ks

from .commands import Command, Group
from .exits import Exit
from .ids import ids_argument, ids_if_meant, is_single, read_ids, yes_option
from .many import run_for_each
from .options import Options, pass_options, printing
from .output import Shape, printer_for
from .table import Column, show_time

__all__ = ["workflows"]

ID = Column(title="WORKFLOW", fields=("workflow_id",))
STATUS = Shape.of(
    ks.WorkflowStatusResponse,
    ID,
    Column(title="STATUS", fields=("execution_status",), is_status=True),
    Column(title="STARTED", fields=("start_time",), show=show_time, rank=2),
    Column(title="CLOSED", fields=("close_time",), show=show_time, rank=1),
    Column(title="TYPE", fields=("workflow_type",), least=10, rank=3),
)
CANCELLED = Shape.of(
    ks.WorkflowCancelResponse,
    ID,
    Column(title="MESSAGE", fields=("message",), least=20, rank=1, typical=40),
)

workflows: Group = Group(
    "workflows",
    help="Executions of any workflow.",
    lazy={"status": "workflows:status", "cancel": "workflows:cancel"},
    example="ks-async workflows status ingest-01JBA411C697A396D497691DFE",
)


@click.command(
    cls=Command,
    example="""
    ks-async workflows status ingest-01JBA411C697A396D497691DFE
    ks-async ingestions list -s processing -o ids | ks-async workflows status -
    """,
)
@ids_argument
@printing
@pass_options
def status(options: Options, ids: tuple[str, ...]) -> Exit:
    """Show where the executions of active workflows are.

    One that is closed may not be found any more.
    """
    printer = printer_for(options, STATUS, single=is_single(ids))
    return run_for_each(options, read_ids(ids), ks.get_workflow_status, printer)


@click.command(
    cls=Command, example="ks-async workflows cancel ingest-01JBA411C697A396D497691DFE --yes"
)
@ids_argument
@yes_option
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Read the status first, and leave alone what is over.",
)
@printing
@pass_options
def cancel(options: Options, ids: tuple[str, ...], yes: bool, check: bool) -> Exit:
    """Cancel workflows that are in progress.

    Cancelling is best effort: what has completed or failed can't be cancelled, and some
    servers say that it was, all the same.
    """
    wanted = ids_if_meant(options, ids, "Cancel {} at {}?", "workflow", yes=yes)
    if wanted is None:
        return Exit.FAILED
    printer = printer_for(options, CANCELLED, "lines", ids=wanted, single=is_single(ids))
    return run_for_each(
        options,
        wanted,
        lambda session, id_: ks.cancel_workflow(session, id_, check=check),
        printer,
        acts=True,
    )
