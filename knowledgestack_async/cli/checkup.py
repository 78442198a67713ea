"""Looking at the way to a server: one finding a question, each with what to do where it is bad."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from statistics import median

import attrs

import knowledgestack_async as ks

from .exits import NO_API_HERE, Exit, exit_for, explain

__all__ = ["Finding", "Verdict", "finding_of", "look_at_server"]

PROBES = 5
PATIENCE = 15.0
SLOW = 1.0
FAR_APART = 30.0

_QUICK = ks.RetryPolicy(tries=2)


class Verdict(StrEnum):
    """How good a finding is."""

    OK = "ok"
    SLOW = "slow"
    WRONG = "wrong"


@attrs.frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at.
        verdict: How good it is.
        found: What was found.
        advice: What to do about it, where it isn't good.
        code: The exit code that goes with it.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
    code: Exit = Exit.DONE


def finding_of(error: ks.KnowledgeStackError, check: str = "server") -> Finding:
    """What an error says about the way to the server.

    Args:
        error: What came of a call.
        check: What was looked at, unless the error tells.
    """
    if isinstance(error, ks.Unauthorized | ks.Forbidden):
        check = "API key"
    what, *advice = explain(error)
    told = advice[0].strip() if advice else "Give another one."
    if isinstance(error, ks.NotFound):
        told = NO_API_HERE
    return Finding(check, Verdict.WRONG, what.removeprefix("Error: "), told, exit_for(error))


async def look_at_server(session: ks.Session) -> AsyncIterator[Finding]:
    """Find out what the server speaks, how fast it answers, and what time it has.

    Raises:
        KnowledgeStackError: It can't be asked.
    """
    hurried = session.with_options(deadline=PATIENCE, retry=_QUICK)
    await ks.list_ingestion_workflows(hurried, page_size=1)
    yield Finding("server", Verdict.OK, "answers, and takes the key")
    yield Finding("dialect", Verdict.OK, session.dialect)
    yield await _look_at_latency(hurried)
    yield await _look_at_clock(hurried)


async def _look_at_latency(session: ks.Session) -> Finding:
    seconds: list[float] = []
    for _ in range(PROBES):
        began = time.perf_counter()
        await ks.list_ingestion_workflows(session, page_size=1)
        seconds.append(time.perf_counter() - began)
    middle = median(seconds)
    found = f"{middle * 1000:.0f} ms, the median of {PROBES}"
    if middle < SLOW:
        return Finding("latency", Verdict.OK, found)
    advice = "Slow, but it works: a server nearer by, or --timeout if calls end too early."
    return Finding("latency", Verdict.SLOW, found, advice)


async def _look_at_clock(session: ks.Session) -> Finding:
    target = session.capabilities.list_target(0, 1, {})
    began = time.time()
    answer = await session.request("GET", target.path)
    here = (began + time.time()) / 2
    there = _date_of(answer.headers)
    if there is None:
        return Finding("clock", Verdict.OK, "the server doesn't tell its time")
    apart = here - there
    if abs(apart) < FAR_APART:
        return Finding("clock", Verdict.OK, f"{abs(apart):.0f} s apart from the server's")
    found = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the server's"
    advice = "Set this machine's clock (NTP), or mind it in --created-after and its like."
    return Finding("clock", Verdict.WRONG, found, advice, Exit.FAILED)


def _date_of(headers: Mapping[str, str]) -> float | None:
    """The server's time; its header tells whole seconds, so half a one is added."""
    text = next((value for name, value in headers.items() if name.lower() == "date"), "")
    try:
        return parsedate_to_datetime(text).timestamp() + 0.5
    except ValueError:
        return None
