"""``ks-async sandbox``: a Knowledge Stack of one's own, until it is interrupted."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from .commands import Command
from .connection import SANDBOX_DIALECT, cannot_listen
from .exits import Exit
from .options import Options, pass_options

if TYPE_CHECKING:
    from knowledgestack_async.sandbox import Sandbox, Store

__all__ = ["sandbox"]

FAILED_ONE_IN = 5
"""So that there is something to rerun, however often all that failed was rerun."""

RUNS_TOLD = 4
"""There is no route that lists runs, so some of them are told, each with its callback's token."""


@click.command(
    cls=Command,
    example="""
    ks-async sandbox --ingestions 500 --port 8000
    ks-async sandbox --dialect documented --latency 0.2
    ks-async sandbox --trickle 0.5
    """,
)
@click.option(
    "--ingestions",
    type=click.IntRange(min=0),
    metavar="N",
    default=200,
    show_default=True,
    help="How many.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=0),
    metavar="N",
    default=4,
    show_default=True,
    help="How many.",
)
@click.option(
    "--seed", type=int, metavar="N", default=7, show_default=True, help="Where chance begins."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", default=0, help="[default: a free one]"
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    default=1.0,
    show_default=True,
    help="Its seconds per second.",
)
@click.option(
    "--latency",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=0.0,
    show_default=True,
    help="How long an answer takes at least.",
)
@click.option(
    "--trickle",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="A new ingestion every so many of its seconds, every fifth a failed one; 0 for none.",
)
@click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), help="How to print. [default: table]"
)
@pass_options
def sandbox(options: Options, /, output: str | None, trickle: float, **settings: Any) -> Exit:
    """Serve a sandbox on this machine, until Ctrl-C.

    That is no error here. It prints its URL and its key, the ids and tokens of some runs, and the two
    lines that point a shell at it.
    """
    from knowledgestack_async.sandbox import Sandbox  # noqa: PLC0415 - slow, and seldom used

    spoken: Any = SANDBOX_DIALECT if options.dialect in {None, "auto"} else options.dialect

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            try:
                served = await stack.enter_async_context(
                    Sandbox(dialect=spoken, record=False, **settings)
                )
            except OSError as error:
                raise cannot_listen("127.0.0.1", settings["port"], error) from error
            _introduce(options, served, output or options.output)
            async with asyncio.TaskGroup() as meanwhile:
                if trickle:
                    pause = trickle / settings["speed"]
                    meanwhile.create_task(let_arrive(served.store, pause))
                await until_interrupted()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        options.screen.note("The sandbox is gone.")
    return Exit.DONE


async def until_interrupted() -> None:
    """Wait, for as long as it takes."""
    await asyncio.Event().wait()


async def let_arrive(store: Store, pause: float) -> None:
    """Let a new upload arrive again and again, for as long as it takes; some have failed at once.

    Args:
        store: Where.
        pause: The seconds from one to the next.
    """
    for number in count(1):  # pragma: no branch - it has no end
        await asyncio.sleep(pause)
        store.add_ingestion(None if number % FAILED_ONE_IN else "failed")


def _introduce(options: Options, served: Sandbox, output: str) -> None:
    out = options.screen.out
    runs = [served.store.get_run(run_id) for run_id in served.store.runs.ids()[:RUNS_TOLD]]
    if output != "table":
        told = [{"id": run.id, "status": run.status, "token": run.token} for run in runs]
        out(json.dumps({"base_url": served.base_url, "api_key": served.api_key, "runs": told}))
        return
    style = options.screen.style
    out(f"URL      {style(served.base_url, bold=True)}")
    out(f"Key      {style(served.api_key, bold=True)}")
    out(f"Speaks   {served.dialect}")
    out(f"Holds    {len(served.store):,} ingestions, {served.runs:,} runs")
    for run in runs:
        out(f"Run      {run.id}  {run.status}")
        out(f"  token  {run.token}")
    out("")
    out(f"export KS_BASE_URL={served.base_url}")
    out(f"export KS_API_KEY={served.api_key}")
    options.screen.note("\nCtrl-C ends it.")
