"""Serves a sandbox until it is told to stop: ``python -m knowledgestack_async.sandbox``."""

import argparse
import asyncio
import json
import signal
import sys

from knowledgestack_async.sandbox.dialects import DIALECTS
from knowledgestack_async.sandbox.faults import Fault
from knowledgestack_async.sandbox.sandbox import Sandbox


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m knowledgestack_async.sandbox",
        description="Serve a fake Knowledge Stack on loopback; print its URL and key as JSON.",
    )
    parser.add_argument("--ingestions", type=int, default=20, help="how many there are")
    parser.add_argument("--runs", type=int, default=3, help="how many workflow runs there are")
    parser.add_argument("--seed", type=int, default=0, help="what everything random derives from")
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="documented")
    parser.add_argument("--api-key", default="sk-user-sandbox", help="the key that it takes")
    parser.add_argument("--speed", type=float, default=1.0, help="sandbox seconds per second")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="the port; 0 takes a free one")
    parser.add_argument("--no-record", dest="record", action="store_false", help="keep no requests")
    parser.add_argument("--effects-file", metavar="PATH", help="append requests and effects here")
    _add_behaviour(parser)
    return parser


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pipeline-seconds",
        type=float,
        nargs=2,
        default=(2.0, 8.0),
        metavar=("SHORTEST", "LONGEST"),
        help="how long a pipeline run takes, in sandbox seconds",
    )
    parser.add_argument(
        "--statuses", type=json.loads, metavar="JSON", help="the share of each status at first"
    )
    parser.add_argument(
        "--rerun-outcomes", type=json.loads, metavar="JSON", help="the weight of each final status"
    )
    parser.add_argument(
        "--fault",
        dest="faults",
        action="append",
        type=json.loads,
        default=[],
        metavar="JSON",
        help="""such as '{"kind": "status", "status": 503, "probability": 0.1}'; repeatable""",
    )
    parser.add_argument("--stale-after-rerun", type=float, default=0.0, metavar="SECONDS")


async def serve(options: argparse.Namespace) -> None:
    """Serve until the process is asked to end."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(*_: object) -> None:
        loop.call_soon_threadsafe(ended.set)

    for name in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(name, end)
        except NotImplementedError:
            signal.signal(name, end)
    given = {name: value for name, value in vars(options).items() if value is not None}
    faults = [Fault(**fault) for fault in given.pop("faults")]
    async with Sandbox(**given) as sandbox:
        for fault in faults:
            sandbox.faults.add(fault)
        line = json.dumps({"base_url": sandbox.base_url, "api_key": sandbox.api_key})
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        await ended.wait()


def main() -> None:
    """Read the command line and serve."""
    asyncio.run(serve(make_parser().parse_args()))


if __name__ == "__main__":
    main()
