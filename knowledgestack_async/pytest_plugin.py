"""Fixtures for testing an app that uses the SDK: a sandbox, and a session to it.

pytest loads this by itself wherever the package is installed. It therefore stands on its own: what
it needs of the package is imported when a fixture is used, and it is installed a second time, as the
module ``_knowledgestack_async_pytest``, which pytest can load without the package around it. So it
costs nothing at the start of those who don't use it, and the package's coverage can be measured.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from knowledgestack_async import Session
    from knowledgestack_async.sandbox import Sandbox

__all__ = ["knowledge_stack_sandbox", "pytest_configure"]

MARKER = "knowledge_stack"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known to ``--strict-markers``, and offer ``knowledge_stack_session``."""
    config.addinivalue_line(
        "markers", f"{MARKER}(**options): what the sandbox of this test is to be like."
    )
    fixture: Callable[..., Any] = pytest.fixture
    if config.pluginmanager.hasplugin("asyncio"):
        # In its strict mode pytest-asyncio runs no coroutine fixtures but those that it marked.
        import pytest_asyncio  # noqa: PLC0415 - there only where it is installed

        fixture = pytest_asyncio.fixture
    config.pluginmanager.register(_make_async_fixtures(fixture), f"{MARKER}_async_fixtures")


def _make_async_fixtures(fixture: Callable[..., Any]) -> object:
    """The fixtures that need somebody to run coroutines, marked as whoever does it wants them."""

    class AsyncFixtures:
        @fixture
        async def knowledge_stack_session(
            self, knowledge_stack_sandbox: Sandbox
        ) -> AsyncIterator[Session]:
            """A `Session` to the test's sandbox, open, on the test's own event loop."""
            async with knowledge_stack_sandbox.session() as session:
                yield session

    return AsyncFixtures()


@pytest.fixture
def knowledge_stack_sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """A `Sandbox` that serves while the test runs; KS_API_KEY and KS_BASE_URL point at it.

    It serves from a thread of its own, so that tests of any kind can use it: plain ones, and those
    of pytest-asyncio, anyio or unittest. ``@pytest.mark.knowledge_stack(ingestions=500, seed=7)``
    gives it options.
    """
    from knowledgestack_async.sandbox import Sandbox  # noqa: PLC0415 - heavy, so only when used

    options: dict[str, Any] = {}
    node: pytest.Item = request.node
    for mark in node.iter_markers(MARKER):
        options = {**mark.kwargs, **options}
    with _served(Sandbox(**options)) as sandbox:
        monkeypatch.setenv("KS_API_KEY", sandbox.api_key)
        monkeypatch.setenv("KS_BASE_URL", sandbox.base_url)
        yield sandbox


@contextmanager
def _served(sandbox: Sandbox) -> Generator[Sandbox]:
    """Serve a sandbox from a thread for as long as the block lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="knowledge-stack-sandbox", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.__aenter__(), loop).result()
        try:
            yield sandbox
        finally:
            ending = sandbox.__aexit__(None, None, None)
            asyncio.run_coroutine_threadsafe(ending, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
