"""``ks-async ingestions``: how documents are processed into the knowledge base."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

import knowledgestack_async as ks

from .commands import Command, Group
from .connection import run_with_session
from .exits import Exit
from .ids import ids_argument, is_single, read_ids
from .many import run_for_each
from .options import Options, pass_options, printing
from .output import Shape, printer_for
from .statuses import refusing, status_option, tell_of_odd
from .table import Column, show_time
from .waiting import deadline_option, wait_for_ingestions

__all__ = ["ingestions"]

ID = Column(title="WORKFLOW", fields=("workflow_id",))
STATUS = Column(title="STATUS", fields=("status",), is_status=True)
REASON = Column(title="DETAIL", fields=("error", "last_activity"), least=20, rank=2, typical=40)

SUMMARY = Shape.of(
    ks.WorkflowSummaryResponse,
    ID,
    STATUS,
    Column(
        title="UPDATED",
        fields=("last_state_update_timestamp", "last_run_timestamp"),
        show=show_time,
        rank=1,
    ),
    Column(title="DOCUMENT", fields=("document_name",), least=16, rank=3),
    REASON,
)
DETAIL = Shape.of(ks.WorkflowDetailResponse, *SUMMARY.columns)
DONE = Shape.of(ks.WorkflowSummaryResponse, ID, STATUS, REASON)

ingestions: Group = Group(
    "ingestions",
    help="How document versions are processed into the knowledge base.",
    lazy={
        "list": "ingestions:list_",
        "get": "ingestions:get",
        "wait": "ingestions:wait",
        "rerun": "rerun:rerun",
    },
    example="ks-async ingestions list --status failed",
)


class Moment(click.ParamType[datetime]):
    """An ISO time; without a zone it is on this machine's clock."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The time that a text tells."""
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            self.fail(
                f"{value!r} is no ISO time, such as 2026-07-01 or 2026-07-01T09:30Z", param, ctx
            )


MOMENT = Moment()


@click.command(
    "list",
    cls=Command,
    example="""
    ks-async ingestions list --limit 20
    ks-async ingestions list --status failed --status quota_limit -o ids
    ks-async ingestions list --created-after 2026-07-01 -o ndjson | jq .error
    """,
)
@status_option("Only those that are")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many at most. [default: all]",
)
@click.option(
    "--page-size", type=click.IntRange(1, 100), metavar="N", default=100, help="Items a request."
)
@click.option("--name-like", metavar="TEXT", help="Only documents whose name is like this.")
@click.option("--latest-version-only", is_flag=True, help="Only the documents' active versions.")
@click.option("--uploader", "uploader_user_id", metavar="USER_ID", help="Only this user's uploads.")
@click.option("--created-after", type=MOMENT, help="Only those created then or later.")
@click.option("--created-before", type=MOMENT, help="Only those created before.")
@click.option("--updated-after", type=MOMENT, help="Only those that changed then or later.")
@click.option("--updated-before", type=MOMENT, help="Only those that changed before.")
@click.option("--oldest-first", is_flag=True, help="Oldest upload first, where the server can.")
@printing
@pass_options
def list_(options: Options, /, **filters: Any) -> Exit:
    """List ingestions, newest first: all of them, unless told otherwise.

    Rows are printed while the list is still being read.
    """
    filters = {name: value for name, value in filters.items() if value not in (None, False, ())}
    printer = printer_for(options, SUMMARY)
    asked = filters.get("status", ())
    seen: set[str] = set()

    async def work(session: ks.Session) -> Exit:
        async with ks.iter_ingestion_workflows(session, **filters) as found:
            options.screen.activity = lambda: _progress(found)
            with printer, refusing(asked):
                async for summary in found:
                    printer.write(summary.to_dict())
                    seen.add(str(summary.status))
        if not found.matched:
            options.screen.note("No ingestions found.")
        tell_of_odd(options.screen, asked, seen)
        return Exit.DONE

    return run_with_session(options, work)


def _progress(found: ks.PageIterator[ks.WorkflowSummaryResponse]) -> str:
    of_all = "" if found.total is None else f" of {found.total:,}"
    return f"{found.matched:,} found{of_all}"


@click.command(
    cls=Command,
    example="""
    ks-async ingestions get ingest-01JBA411C697A396D497691DFE
    ks-async ingestions get ingest-01JBA411C697A396D497691DFE --output json
    """,
)
@ids_argument
@printing
@pass_options
def get(options: Options, ids: tuple[str, ...]) -> Exit:
    """Show ingestions in detail, with their live execution."""
    printer = printer_for(options, DETAIL, "sheet", single=is_single(ids))
    return run_for_each(options, read_ids(ids), ks.get_ingestion_workflow, printer)


@click.command(
    cls=Command,
    example="""
    ks-async ingestions wait ingest-01JBA411C697A396D497691DFE --deadline 600
    ks-async ingestions list -s processing -o ids | ks-async ingestions wait -
    """,
)
@ids_argument
@deadline_option
@printing
@pass_options
def wait(options: Options, ids: tuple[str, ...], deadline: float | None) -> Exit:
    """Wait until ingestions are done, and print each as it is.

    A hundred are looked up a request. Exits with 0 only if all of them were completed.
    """
    wanted = read_ids(ids)
    printer = printer_for(options, DONE, "lines", ids=wanted, single=is_single(ids))
    return wait_for_ingestions(options, wanted, printer, deadline=deadline)
