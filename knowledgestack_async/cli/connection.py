"""From the options to an open session, and to the end of a command that uses one."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs
import click

import knowledgestack_async as ks

from .exits import Exit
from .options import Options

__all__ = [
    "SANDBOX_DIALECT",
    "ApiKey",
    "cannot_listen",
    "find_key",
    "open_session",
    "run_with_session",
]

SANDBOX_DIALECT = "system-jobs"
"""What a sandbox speaks here if nothing else is asked for: the generation that knows most."""

_NO_KEY = (
    "there is no API key: set KS_API_KEY, or give --api-key-file FILE. "
    "To try things out without one, give --sandbox."
)


@attrs.frozen
class ApiKey:
    """A key, and where it was found."""

    text: str = attrs.field(repr=False)
    source: str


def find_key(options: Options) -> ApiKey:
    """The command's own token, else the key from the file that was named, else from the environment.

    Raises:
        click.UsageError: There is none.
    """
    if options.token is not None:
        return ApiKey(options.token, "--token-env")
    if options.api_key_file is not None:
        return ApiKey(_read_key(options), f"the file {options.api_key_file}")
    text = os.environ.get("KS_API_KEY", "").strip()
    if not text:
        raise click.UsageError(_NO_KEY)
    return ApiKey(text, "KS_API_KEY")


def _read_key(options: Options) -> str:
    path = options.api_key_file
    assert path is not None  # noqa: S101 - what the only caller has checked
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise click.UsageError(f"--api-key-file {path} can't be read: {reason}.") from error
    if not text:
        raise click.UsageError(f"--api-key-file {path} is empty.")
    return text


@asynccontextmanager
async def open_session(options: Options) -> AsyncGenerator[ks.Session]:
    """A session as the options say: to a server, or to a sandbox of its own.

    Raises:
        click.UsageError: There is no key.
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
