"""``ks-async runs``: single executions of workflow definitions."""

from __future__ import annotations

from typing import Any

import click

import knowledgestack_async as ks

from .._report_text import fit_report
from .commands import Command, Group
from .credentials import find_token
from .exits import Exit
from .ids import ids_argument, ids_if_meant, is_single, read_ids, yes_option
from .many import run_for_each
from .options import Options, pass_options, printing
from .output import Shape, printer_for
from .table import Column
from .waiting import deadline_option, wait_for_each

__all__ = ["runs"]

ID = Column(title="RUN", fields=("id",))
RUN = Shape.of(
    ks.WorkflowRunResponse,
    ID,
    Column(title="STATUS", fields=("status",), is_status=True),
    Column(title="ERROR", fields=("error",), least=20, rank=1, typical=40),
    id_field="id",
)
DELETED = Shape(
    fields=("id", "result"),
    columns=(ID, Column(title="RESULT", fields=("result",))),
    id_field="id",
)
REPORTED = Shape(
    fields=("id", "status"),
    columns=(ID, Column(title="STATUS", fields=("status",), typical=16, is_status=True)),
    id_field="id",
)

runs: Group = Group(
    "runs",
    help="Single executions of workflow definitions.",
    lazy={
        "get": "runs:get",
        "wait": "runs:wait",
        "delete": "runs:delete",
        "callback": "runs:callback",
    },
    example="ks-async runs get 942eac11-17f6-4d00-afee-8f000eda4193",
)


@click.command(
    cls=Command,
    example="""
    ks-async runs get 942eac11-17f6-4d00-afee-8f000eda4193
    ks-async runs get 942eac11-17f6-4d00-afee-8f000eda4193 -o json --fields error
    """,
)
@ids_argument
@printing
@pass_options
def get(options: Options, ids: tuple[str, ...]) -> Exit:
    """Show runs, with what they were configured to do."""
    printer = printer_for(options, RUN, "sheet", single=is_single(ids))
    return run_for_each(options, read_ids(ids, "run_id"), ks.get_workflow_run, printer)


@click.command(
    cls=Command,
    example="ks-async runs wait 942eac11-17f6-4d00-afee-8f000eda4193 --deadline 3600",
)
@ids_argument
@deadline_option
@printing
@pass_options
def wait(options: Options, ids: tuple[str, ...], deadline: float | None) -> Exit:
    """Wait until runs are over, and print each as it is.

    Exits with 0 only if all of them were completed.
    """
    wanted = read_ids(ids, "run_id")
    printer = printer_for(options, RUN, "lines", ids=wanted, single=is_single(ids))
    return wait_for_each(
        options, wanted, ks.wait_for_workflow_run, printer, good="COMPLETED", deadline=deadline
    )


@click.command(
    cls=Command, example="ks-async runs delete 942eac11-17f6-4d00-afee-8f000eda4193 --yes"
)
@ids_argument
@yes_option
@printing
@pass_options
def delete(options: Options, ids: tuple[str, ...], yes: bool) -> Exit:
    """Delete the records of runs.

    This does NOT cancel an execution that is in progress: it only takes the run out of
    the API. A server may refuse to delete a run that is still running.
    """
    question = "Delete {} at {}? An execution that is in progress is not cancelled by that."
    wanted = ids_if_meant(options, ids, question, "run", yes=yes, what="run_id")
    if wanted is None:
        return Exit.FAILED
    printer = printer_for(options, DELETED, "lines", ids=wanted, single=is_single(ids))
    return run_for_each(
        options,
        wanted,
        ks.delete_workflow_run,
        printer,
        record=lambda id_, _: {"id": id_, "result": "deleted"},
        acts=True,
    )


@click.command(
    cls=Command,
    example="""
    ks-async runs callback 942eac11-17f6-4d00-afee-8f000eda4193 --status COMPLETED
    ./job 2>log || ks-async runs callback $RUN --status FAILED --error-file log
    """,
)
@click.argument("run_id")
@click.option(
    "--status",
    required=True,
    type=click.Choice(["COMPLETED", "FAILED"], case_sensitive=False),
    help="How it ended.",
)
@click.option("--error", metavar="TEXT", help="Why it failed.")
@click.option(
    "--error-file",
    metavar="FILE",
    type=click.File(errors="replace"),
    help="A file that says why it failed, such as a log; - is standard input.",
)
@click.option(
    "--token-env",
    metavar="NAME",
    help="The environment variable with the run's token or the runner's secret. [else the API key]",
)
@printing
@pass_options
def callback(
    options: Options,
    run_id: str,
    status: Any,
    error: str | None,
    error_file: Any,
    token_env: str | None,
) -> Exit:
    """Report how a run ended. This is the runner's to do, not the end user's.

    A run that had its outcome before keeps it: the answer is then already_terminal.
    Of a long error the beginning and the last lines are sent, 8,192 characters in all.
    With --token-env no API key is needed.
    """
    if error is not None and error_file is not None:
        raise click.UsageError("give --error or --error-file, not both.")
    why = error if error_file is None else error_file.read()
    token = None if token_env is None else find_token(token_env)
    options.token = token
    printer = printer_for(options, REPORTED, "lines", ids=[run_id], single=True)
    return run_for_each(
        options,
        read_ids([run_id], "run_id"),
        lambda session, id_: ks.send_workflow_run_callback(
            session, id_, status, error=why and fit_report(why), token=token
        ),
        printer,
        record=lambda id_, answer: {"id": id_, "status": answer.status},
        acts=True,
    )
