"""Outcomes that were decided and not delivered yet, in a SQLite file that survives kill -9.

The processes of a runner's host may share one file. It is held by one of them at a time and only for
as long as a commit takes; who finds it in use tries again, for `PATIENCE` seconds at most. What is
handed in meanwhile within one process goes into the same commit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import attrs

from ._clock import Clock
from ._database import Database, Layout
from .errors import JournalError, NotFound, ResponseError

__all__ = ["PATIENCE", "Spool", "SpoolEntry", "SpoolReport", "deliver_entries", "is_gone"]

T = TypeVar("T")

logger = logging.getLogger("knowledgestack_async")

Work = Callable[[sqlite3.Connection], Any]

INSERT = """
    INSERT INTO outcomes (server, run_id, status, error, decided_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
SELECT = """
    SELECT server, run_id, status, error, decided_at FROM outcomes
    WHERE server = ? AND run_id = ifnull(?, run_id) ORDER BY decided_at
"""

PATIENCE = 3.0
"""How long to try while another process holds the file, in seconds."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.1

LAYOUT = Layout(
    what="spool",
    application_id=0x4B535031,
    version=1,
    tables="""
        CREATE TABLE outcomes (
            server TEXT NOT NULL,
            run_id TEXT NOT NULL,
            status TEXT NOT NULL,
            error TEXT,
            decided_at TEXT NOT NULL,
            handed_out INTEGER NOT NULL DEFAULT 0,  -- whether somebody else may have sent it, too
            PRIMARY KEY (server, run_id)
        );
    """,
)


@attrs.frozen
class SpoolEntry:
    """The outcome of one run. It holds no token.

    Attributes:
        server: The base URL of the server that is to be told.
        run_id: Which run.
        status: COMPLETED or FAILED.
        error: Why it failed.
        decided_at: When that was decided, ISO 8601 in UTC.
    """

    server: str
    run_id: str
    status: Literal["COMPLETED", "FAILED"]
    error: str | None = None
    decided_at: str = attrs.field(factory=lambda: datetime.now(UTC).isoformat())


class _InUse(JournalError):
    """Another process holds the file."""


class _SpoolFile(Database):
    """A database that several processes may begin to use at the same time."""

    def _check_nothing_left_over(self) -> None:
        """Put the log of a spool that is gone aside: SQLite would discard what may lie in it."""
        for suffix in ("-wal", "-journal"):
            log = self.path.with_name(self.path.name + suffix)
            if log.exists() and log.stat().st_size:
                aside = log.with_name(f"{log.name}.{time.time_ns()}")
                log.rename(aside)
                logger.warning(
                    "%s is gone, and its log %s, which may hold outcomes, is put aside as %s",
                    *(self.path, log.name, aside.name),
                )

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # then another process was quicker
            self.path.touch(mode=0o600, exist_ok=False)

    def _check(self, connection: sqlite3.Connection) -> None:
        # The tables are made in place and under the lock: a file moved here from beside it could
        # take the place of one that another process has written to already.
        connection.execute("BEGIN EXCLUSIVE")
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        [owner] = connection.execute("PRAGMA application_id").fetchone()
        if not tables and not owner:
            connection.execute(LAYOUT.tables)
            connection.execute(f"PRAGMA application_id = {LAYOUT.application_id}")
            connection.execute(f"PRAGMA user_version = {LAYOUT.version}")
        connection.execute("COMMIT")
        super()._check(connection)

    def _explain(self, error: Exception) -> JournalError:
        explained = super()._explain(error)
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
        return _InUse(*explained.args) if code & 0xFF == sqlite3.SQLITE_BUSY else explained


@attrs.define(eq=False)
class _Job:
    """Work that waits for the file, and what came of it."""

    work: Work
    is_done: bool = False
    result: Any = None
    problem: Exception | None = None


class Spool:
    """A spool file, as one process sees it.

    Args:
        path: Where the file is; made when it is first written to.
        clock: Where time comes from.
        draw: Draws a number from 0 up to 1, for the jitter.
    """

    def __init__(
        self, path: str | os.PathLike[str], clock: Clock, draw: Callable[[], float]
    ) -> None:
        self._path = path
        self._clock = clock
        self._draw = draw
        self._jobs: list[_Job] = []
        self._turn = asyncio.Lock()

    async def put(self, entry: SpoolEntry) -> tuple[SpoolEntry, bool]:
        """Keep an outcome; when this returns, it is on the disk.

        Returns:
            What is kept for the run, and whether it was kept before: the first decision stands.

        Raises:
            JournalError: It can't be written, or stays in use.
        """

        def work(connection: sqlite3.Connection) -> tuple[SpoolEntry, bool]:
            row = attrs.astuple(entry)
            done = connection.execute(INSERT, row)
            kept = connection.execute(SELECT, row[:2]).fetchone()
            return SpoolEntry(*kept), not done.rowcount

        return await self._do(work)

    async def drop(self, entry: SpoolEntry) -> tuple[bool, bool]:
        """Forget the outcome of a run, which was delivered or can't be any more.

        Returns:
            Whether that worked (what stays is delivered once more, which does no harm), and whether
            the outcome was handed out for delivery meanwhile.
        """

        def work(connection: sqlite3.Connection) -> bool:
            which = (entry.server, entry.run_id)
            kept = connection.execute(
                "SELECT handed_out FROM outcomes WHERE server = ? AND run_id = ?", which
            ).fetchone()
            connection.execute("DELETE FROM outcomes WHERE server = ? AND run_id = ?", which)
            return kept is None or bool(kept[0])

        try:
            return True, await self._do(work)
        except JournalError as problem:
            logger.warning("the outcome of run %s stays in the spool: %s", entry.run_id, problem)
            return False, True

    async def hand_out(self, server: str) -> list[SpoolEntry]:
        """The outcomes that a server is still to be told, oldest first.

        Raises:
            JournalError: It can't be read, or stays in use.
        """

        def work(connection: sqlite3.Connection) -> list[SpoolEntry]:
            connection.execute("UPDATE outcomes SET handed_out = 1 WHERE server = ?", (server,))
            rows = connection.execute(SELECT, (server, None))
            return [SpoolEntry(*row) for row in rows]

        return await self._do(work)

    async def close(self) -> None:
        """Nothing to do: between commits nothing is open."""

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        job = _Job(work)
        self._jobs.append(job)
        async with self._turn:
            # Whoever gets the turn does what all others wait for, too.
            if not job.is_done:
                await self._do_all()
        if job.problem is not None:
            raise job.problem
        result: T = job.result
        return result

    async def _do_all(self) -> None:
        """Do what waits, in one commit. Cut short, it is done again: all of it bears that."""
        try:
            database = await self._open()
        except JournalError as problem:
            self._finish([problem] * len(self._jobs))
            return
        try:
            handed_in = [database.hand_in(job.work) for job in self._jobs]
            self._finish(await asyncio.gather(*handed_in, return_exceptions=True))
        finally:
            await database.close()

    def _finish(self, results: list[Any]) -> None:
        for job, result in zip(self._jobs, results, strict=False):
            job.is_done = True
            if isinstance(result, Exception):
                job.problem = result
            else:
                job.result = result
        del self._jobs[: len(results)]

    async def _open(self) -> Database:
        give_up_at = self._clock.now() + PATIENCE
        pause = SHORTEST_PAUSE
        while True:
            database = _SpoolFile(self._path, LAYOUT)
            try:
                await database.open()
            except _InUse:
                await database.close()
                if self._clock.now() >= give_up_at:
                    raise
            except BaseException:
                await database.close()
                raise
            else:
                return database
            await self._clock.sleep(self._draw() * pause)
            pause = min(2 * pause, LONGEST_PAUSE)


@attrs.frozen(kw_only=True)
class SpoolReport:
    """What became of the outcomes that were left in a spool.

    Attributes:
        delivered: The runs whose outcome the server took now, or had before.
        gone: The runs that the server doesn't know any more; their outcomes were dropped.
        left: The runs whose outcome is still in the spool, and why.
    """

    delivered: tuple[str, ...]
    gone: tuple[str, ...]
    left: Mapping[str, Exception]


def is_gone(problem: Exception) -> bool:
    """Whether the server doesn't know the run any more, so that nothing is left to deliver."""
    if isinstance(problem, NotFound):
        return problem.names_it
    return isinstance(problem, ResponseError) and problem.status == 410


async def deliver_entries(
    spool: Spool,
    server: str,
    send: Callable[[SpoolEntry], Awaitable[object]],
    *,
    concurrency: int,
) -> SpoolReport:
    """Deliver what a spool has for a server; see ``deliver_spooled``."""
    delivered: list[str] = []
    gone: list[str] = []
    left: dict[str, Exception] = {}
    entries = iter(await spool.hand_out(server))

    async def deliver() -> None:
        for entry in entries:
            result = delivered
            try:
                await send(entry)
            except Exception as problem:  # noqa: BLE001 - one that fails holds up no other
                if not is_gone(problem):
                    left[entry.run_id] = problem
                    continue
                result = gone
            await spool.drop(entry)
            result.append(entry.run_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(deliver())
    return SpoolReport(delivered=tuple(delivered), gone=tuple(gone), left=left)
