"""A SQLite file that survives kill -9 and power loss, off the event loop, one process at a time.

The pragmas, and why:

- ``journal_mode=WAL``: a commit is one append and one sync, however many rows it has.
- ``synchronous=FULL``: that sync is waited for, so what was committed is there after a power cut.
- ``journal_mode=DELETE`` at the end, for what is moved about: one file, which holds everything.
- ``locking_mode=EXCLUSIVE``: one connection and no shared memory, so that WAL's known trouble with
  two connections can't arise, and a second process is refused at once.

Only SQLite ever opens the file: when any other descriptor of it is closed, POSIX takes the locks of the
whole process away, and another process could write at the same time.

Works that are handed in at the same time share one commit.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import attrs

from .errors import JournalError

__all__ = ["Database", "Layout"]

A = TypeVar("A")
T = TypeVar("T")

Work = Callable[[sqlite3.Connection, Any], Sequence[Any]]
"""What is done for all the arguments that it was handed in with, at once; a result for each."""
Order: TypeAlias = "tuple[Work, Any, asyncio.Future[Any]]"


@attrs.frozen(kw_only=True)
class Layout:
    """What kind of file it is.

    Attributes:
        what: What to call it in errors.
        application_id: The number by which SQLite files tell whose they are.
        version: Of the tables; a file with a higher one is from a newer release.
        tables: The SQL that makes them.
        closes_log: Whether the log is brought in and put away at the end, so that the file is whole
            by itself. One that has a log then was not closed, and its log must be there.
    """

    what: str
    application_id: int
    version: int
    tables: str
    closes_log: bool = False


class Database:
    """One file, one connection, one thread.

    Args:
        path: Where the file is; made if it isn't there.
        layout: What kind of file it is.
    """

    def __init__(self, path: str | os.PathLike[str], layout: Layout) -> None:
        self.path = Path(path)
        self._layout = layout
        self._gathered: list[Order] = []
        self._orders: SimpleQueue[list[Order] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._broken: JournalError | None = None

    async def open(self) -> bool:
        """Open the file; whether it was made new.

        Raises:
            JournalError: It is in use, torn, foreign or newer, or can't be written.
        """
        opened: Future[bool] = Future()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._serve, args=(opened,), name=f"database {self.path.name}", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            self._thread = None
            raise self._explain(error) from None
        try:
            return await asyncio.shield(asyncio.wrap_future(opened))
        except asyncio.CancelledError:
            self._orders.put(None)  # it lets the file go by itself
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in a transaction; when this returns, it is committed.

        Raises:
            JournalError: It can't be written: the disk is full or read-only.
        """
        return await self.hand_in(work)

    def hand_in(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """The same, without waiting for it."""
        return self._put(lambda connection, _: [_plain(work(connection))], None)

    async def run_together(
        self, work: Callable[[sqlite3.Connection, list[A]], Sequence[T]], argument: A
    ) -> T:
        """Do the same work for everybody who waits for it in one go, and give each their result.

        Raises:
            JournalError: It can't be written: the disk is full or read-only.
        """
        result: T = await self._put(work, argument)
        return result

    def _put(self, work: Work, argument: Any) -> asyncio.Future[Any]:
        """What comes in one step of the event loop goes to the thread together."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append((work, argument, done))
        return done

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._orders.put(gathered)

    async def close(self) -> None:
        """Do what was handed in, and let the file go."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._hand_over()
            self._orders.put(None)
            await asyncio.to_thread(thread.join)

    def _serve(self, opened: Future[bool]) -> None:
        connection: sqlite3.Connection | None = None
        try:
            is_new = not self.path.exists()
            if is_new:
                self._check_nothing_left_over()
                self._create()
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - whoever opens it is told
            opened.set_exception(self._explain(error))
            return
        opened.set_result(is_new)
        try:
            while self._serve_batch(connection):
                pass
        finally:
            self._put_log_away(connection)
            connection.close()

    def _put_log_away(self, connection: sqlite3.Connection) -> None:
        if self._layout.closes_log:
            with suppress(sqlite3.Error):  # then the log stays there, too
                connection.execute("PRAGMA journal_mode = DELETE")

    def _serve_batch(self, connection: sqlite3.Connection) -> bool:
        """Commit everything that waits together; False when it is time to close."""
        batch = [self._orders.get()]
        while not self._orders.empty():
            batch.append(self._orders.get())
        orders = [order for orders in batch if orders is not None for order in orders]
        results: list[Any] = []
        problem: JournalError | None = self._broken
        if problem is None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                results = _do_all(connection, [(work, argument) for work, argument, _ in orders])
                connection.execute("COMMIT")
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                # What could not be written once is not trusted again: nothing more may be sent.
                self._broken = problem = self._explain(error)
                connection.rollback()
        waiting = [done for _, _, done in orders]
        if self._loop is not None and waiting and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, waiting, results, problem)
        return None not in batch

    def _check_nothing_left_over(self) -> None:
        """Refuse a log of a file that is gone: SQLite would replay it into the new one."""
        for suffix in ("-wal", "-journal"):
            log = self.path.with_name(self.path.name + suffix)
            if os.path.lexists(log):
                raise JournalError(
                    f"there is no {self._layout.what} {self.path}, but the log {log.name} of an "
                    "earlier one is still there, and its process may be running: move it to where "
                    f"its {self._layout.what} is now, or delete it if that was deleted; or use "
                    "another name"
                )

    def _create(self) -> None:
        """Make the file beside its place and move it there, so that half a file is never found."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}-{id(self)}.new")
        draft.unlink(missing_ok=True)
        try:
            connection = sqlite3.connect(draft)
            try:
                connection.executescript(self._layout.tables)
                connection.execute(f"PRAGMA application_id = {self._layout.application_id}")
                connection.execute(f"PRAGMA user_version = {self._layout.version}")
                connection.commit()
            finally:
                connection.close()
            _move_if_free(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        if not self.path.is_file():
            raise JournalError(f"{self.path} is not a file")  # opening a pipe would wait for ever
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        had_log = self.path.with_name(self.path.name + "-wal").exists()
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._check_log(connection, had_log=had_log)
            self._check(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_log(self, connection: sqlite3.Connection, *, had_log: bool) -> None:
        """A file that was not closed is not whole without its log."""
        [found] = connection.execute("PRAGMA application_id").fetchone()
        [mode] = connection.execute("PRAGMA journal_mode").fetchone()
        is_ours = self._layout.closes_log and found == self._layout.application_id
        if is_ours and mode == "wal" and not had_log:
            raise JournalError(
                f"{self.path} was not closed, and its log {self.path.name}-wal is missing: "
                "bring it along, for what happened last is in there"
            )

    def _check(self, connection: sqlite3.Connection) -> None:
        layout = self._layout
        [found] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if found != layout.application_id:
            raise JournalError(f"{self.path} is not a {layout.what}")
        if version > layout.version:
            raise JournalError(f"{self.path} was written by a newer release; upgrade to use it")
        [state] = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise JournalError(f"{self.path} is damaged: {state}")
        self._check_size(connection)

    def _check_size(self, connection: sqlite3.Connection) -> None:
        """A file that lost the end of its last page passes SQLite's own check."""
        # Killed while it brought its log in, it is short as well, and whole after this.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        [page_size] = connection.execute("PRAGMA page_size").fetchone()
        if self.path.stat().st_size < pages * page_size:
            raise JournalError(f"{self.path} is damaged: it lost its end")

    def _explain(self, error: Exception) -> JournalError:
        if isinstance(error, JournalError):
            return error
        code = getattr(error, "sqlite_errorcode", None)
        what = self._layout.what
        if code is not None and code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return JournalError(f"{self.path} is in use by another process")
        if code is not None and code & 0xFF in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            return JournalError(f"{self.path} is not a {what}, or is damaged: {error}")
        return JournalError(f"the {what} {self.path} can't be used: {error}")


def _move_if_free(draft: Path, place: Path) -> None:
    """Give a file its place, unless another process was quicker: a rename would put that one's away."""
    try:
        os.link(draft, place)
    except FileExistsError:
        return
    except OSError:  # not every file system can do that
        if not place.exists():
            draft.rename(place)


def _plain(result: Any) -> Any:
    """A cursor stays in this thread: SQLite doesn't take it well when another one ends it."""
    return None if isinstance(result, sqlite3.Cursor) else result


def _do_all(connection: sqlite3.Connection, works: Sequence[tuple[Work, Any]]) -> list[Any]:
    """The results in the order of the works; each kind is done where it first came up."""
    together: dict[Work, list[Any]] = {}
    for work, argument in works:
        together.setdefault(work, []).append(argument)
    results = {work: iter(work(connection, asked)) for work, asked in together.items()}
    return [next(results[work]) for work, _ in works]


def _deliver(
    waiting: list[asyncio.Future[Any]], results: list[Any], problem: JournalError | None
) -> None:
    """Tell those who wait, all of them at once."""
    for place, done in enumerate(waiting):
        if done.cancelled():
            continue
        if problem is None:
            done.set_result(results[place])
        else:
            done.set_exception(JournalError(*problem.args))
            done.exception()  # whoever handed it in and didn't wait is told by the next one
