"""Fixtures that several modules use: a sandbox with a session, whose waits take no time."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Iterator

import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Sandbox
from support import KEY, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def chance() -> random.Random:
    return random.Random(7)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(ingestions=50, api_key=KEY) as running:
        yield running


@pytest.fixture
async def session(sandbox: Sandbox, clock: FakeClock) -> AsyncIterator[ks.Session]:
    """A session to the sandbox, whose waits take no time."""
    async with sandbox.session(clock=clock, chance=random.Random(7)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KS_API_KEY", raising=False)
    monkeypatch.delenv("KS_BASE_URL", raising=False)


def _is_no_slow_step(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Executing %s took")


@pytest.fixture(autouse=True, scope="session")
def _no_news_of_slow_steps() -> Iterator[None]:
    """How long a step took on a busy machine, which asyncio tells in debug mode, is no test's matter."""
    logger = logging.getLogger("asyncio")
    logger.addFilter(_is_no_slow_step)
    yield
    logger.removeFilter(_is_no_slow_step)
