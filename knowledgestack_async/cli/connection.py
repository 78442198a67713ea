"""From the options to an open session, and to the end of a command that uses one."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import click

import knowledgestack_async as ks

from .._settings import DEFAULT_BASE_URL
from .._wire import check_base_url, seal
from .credentials import find_key
from .exits import Exit
from .options import Options

__all__ = [
    "SANDBOX_DIALECT",
    "cannot_listen",
    "open_session",
    "run_with_session",
    "server_of",
]

SANDBOX_DIALECT = "system-jobs"
"""What a sandbox speaks here if nothing else is asked for: the generation that knows most."""


@asynccontextmanager
async def open_session(options: Options) -> AsyncGenerator[ks.Session]:
    """A session as the options say: to a server, or to a sandbox of its own.

    Raises:
        click.UsageError: There is no key, or it can't be one.
        ConfigurationError: An option is wrong.
    """
    settings: dict[str, Any] = {"dialect": options.dialect or "auto"}
    if options.timeout is not None:
        settings["timeout"] = options.timeout
    if options.sandbox:
        async with _open_sandbox_session(options, settings) as session:
            yield session
        return
    key = find_key(options).text
    settings["allow_plain_http"] = options.allow_plain_http
    async with ks.Session(key, options.base_url, **settings) as session:
        yield session


@asynccontextmanager
async def _open_sandbox_session(
    options: Options, settings: dict[str, Any]
) -> AsyncGenerator[ks.Session]:
    from knowledgestack_async.sandbox import Sandbox  # noqa: PLC0415 - slow, and seldom used

    spoken: Any = SANDBOX_DIALECT if options.dialect in {None, "auto"} else options.dialect
    sandbox = Sandbox(ingestions=200, runs=4, seed=7, dialect=spoken, record=False)
    async with sandbox, sandbox.session(**settings) as session:
        yield session


def server_of(options: Options) -> str:
    """The server that a command would talk to, for questions that come before it does.

    Raises:
        ConfigurationError: It can't be one.
    """
    if options.sandbox:
        return "a sandbox"
    url = options.base_url or os.environ.get("KS_BASE_URL") or DEFAULT_BASE_URL
    return check_base_url(seal(url), allow_plain_http=options.allow_plain_http)


def cannot_listen(host: str, port: int, error: OSError) -> click.UsageError:
    """What to say where a port can't be had."""
    reason = os.strerror(error.errno) if error.errno else error
    return click.UsageError(f"can't listen on {host}:{port}: {reason}; take another port.")


def run_with_session(
    options: Options, work: Callable[[ks.Session], Coroutine[Any, Any, Exit]]
) -> Exit:
    """Run what needs a session, from its opening to its end.

    Args:
        options: What was asked of this run.
        work: What is to be done; gives the exit code.
    """

    async def whole() -> Exit:
        async with open_session(options) as session, options.screen.ticking():
            host = urlsplit(session.base_url).netloc
            options.screen.activity = lambda: f"waiting for {host}"
            return await work(session)

    with _logging_to_stderr(enabled=options.debug):
        return asyncio.run(whole())


@contextmanager
def _logging_to_stderr(*, enabled: bool) -> Generator[None]:
    logger = logging.getLogger("knowledgestack_async")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = logger.level
    if enabled:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
