"""``ks-async monitor``: what a tenant's ingestions are like, for Prometheus."""

from __future__ import annotations

from importlib.util import find_spec

import click

import knowledgestack_async as ks

from .commands import Command
from .connection import run_with_session
from .exits import Exit
from .observed import raise_if_hopeless
from .options import Options, pass_options

__all__ = ["monitor"]


@click.command(
    cls=Command,
    example="""
    ks-async monitor --prometheus 9464
    curl http://127.0.0.1:9464/metrics
    """,
)
@click.option(
    "--prometheus",
    "port",
    required=True,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Where to serve the metrics; 0 takes a free port, which is told.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen on; others than this machine's own let others read them.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Between two looks at least. [default: short at first, up to 15 later]",
)
@pass_options
def monitor(options: Options, port: int, host: str, interval: float | None) -> Exit:
    """Serve metrics of all ingestions, until Ctrl-C.

    Counts by status, the age of the oldest active one, and the requests that it takes. It
    needs the extra [metrics]. Ctrl-C is no error here.
    """
    if find_spec("prometheus_client") is None:
        options.screen.note(
            "monitor needs its extra: pip install 'knowledgestack-async[cli,metrics]'"
        )
        return Exit.USAGE

    async def work(session: ks.Session) -> Exit:
        from .metrics import Gauges, serving  # noqa: PLC0415 - only with the extra

        async with ks.watch_ingestions(session, interval=interval) as watch:
            gauges = Gauges(session, watch)
            async with serving(gauges, host, port) as address:
                options.screen.note(f"Metrics at http://{address}/metrics\nCtrl-C ends it.")
                options.screen.activity = lambda: f"watching {watch.summary.total:,} ingestions"
                while True:
                    change = await anext(watch)
                    raise_if_hopeless(change)
                    gauges.note(change)

    try:
        return run_with_session(options, work)
    except KeyboardInterrupt:
        options.screen.note("Ended.")
        return Exit.DONE
