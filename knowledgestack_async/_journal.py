"""The journal of a bulk rerun: what was meant, sent, accepted, refused, failed, unknown.

The interface is the protocol ``Journal``; ``SqliteJournal`` keeps it in one file. Items are claimed,
not taken from a list in memory, so that a shared database can stand behind it one day, with several
machines claiming from it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ._baseline import Baseline
from ._database import Database, Layout
from .errors import JournalError

__all__ = ["ItemState", "Journal", "JournalItem", "SqliteJournal", "read_published"]


class ItemState(StrEnum):
    """Where an item of a job is."""

    PLANNED = "planned"
    """It is to be rerun; nothing was sent, or the server refused for now."""
    SENDING = "sending"
    """It may be on the wire; this is written before the first byte goes out."""
    ACCEPTED = "accepted"
    """The server took it."""
    REFUSED = "refused"
    """The server won't take it, and said why."""
    FAILED = "failed"
    """It can't be sent."""
    UNKNOWN = "unknown"
    """It was sent, and nobody can tell whether it acted."""


class JournalItem(msgspec.Struct, frozen=True, array_like=True):
    """One ingestion of a job; its fields are the columns of the table, in order.

    Attributes:
        workflow_id: Which.
        state: Where it is.
        baseline: What it was like before; None if that isn't known yet.
        tries: How often it was sent.
        request_id: The server's id of the last request.
        code: The error code or status of a refusal.
        error: Why it was refused, failed, or is unknown; or why its new run failed.
        outcome: The status that its new run ended with, where that was waited for.
        changed_at: When the state last changed.
    """

    workflow_id: str
    state: ItemState = ItemState.PLANNED
    baseline: Baseline | None = None
    tries: int = 0
    request_id: str | None = None
    code: str | None = None
    error: str | None = None
    outcome: str | None = None
    changed_at: datetime | None = None


class Journal(Protocol):
    """What a job asks of its journal. What a call did is durable when it returns."""

    async def open(self, server: str, settings: Mapping[str, Any]) -> None:
        """Open it for a job; a journal of another job is refused."""
        ...

    async def close(self) -> None:
        """Let it go."""
        ...

    async def is_planned(self) -> bool:
        """Whether all targets are in it, so that sending may begin."""
        ...

    async def clear(self) -> None:
        """Forget the targets of a planning that came to no end."""
        ...

    async def add(self, targets: Sequence[tuple[str, Baseline | None]]) -> None:
        """Write targets down; one that is there already stays as it is."""
        ...

    async def set_baselines(self, found: Mapping[str, Baseline]) -> None:
        """Write down what planned items are like now."""
        ...

    async def finish_planning(self) -> None:
        """All targets are in it."""
        ...

    async def claim(self, most: int) -> list[JournalItem]:
        """Take planned items, and mark them as being sent."""
        ...

    async def update(self, items: Sequence[JournalItem]) -> None:
        """Write down where items are now."""
        ...

    async def counts(self) -> dict[ItemState, int]:
        """How many items are in which state."""
        ...

    async def find(self, workflow_ids: Sequence[str]) -> list[JournalItem]:
        """The items of these ids."""
        ...

    def items(self, *states: ItemState) -> AsyncIterator[JournalItem]:
        """The items in these states, or all, in the order in which they were planned."""
        ...

    def publish(self, state: Mapping[str, Any]) -> Awaitable[None]:
        """Tell others, who can't read it now, where the job is."""
        ...


_LAYOUT = Layout(
    what="journal",
    application_id=0x4B534A31,
    version=1,
    tables="""
        CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE item (
            number INTEGER PRIMARY KEY,
            workflow_id TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL,
            baseline TEXT,
            tries INTEGER NOT NULL DEFAULT 0,
            request_id TEXT,
            code TEXT,
            error TEXT,
            outcome TEXT,
            changed_at TEXT NOT NULL
        );
        CREATE INDEX item_by_state ON item (state, number);
    """,
    closes_log=True,
)

# SQLite lets Python's lock go for each row that it gives or takes, and where the event loop is busy it
# waits for it each time. So many items come and go as one row: as a JSON text, and as a list of values.

_ITEMS = msgspec.json.Decoder(list[JournalItem])

_READ = """
    SELECT json_group_array(json_array(
        workflow_id, state, json(baseline), tries, request_id, code, error, outcome, changed_at
    )), max(number) FROM (SELECT * FROM item WHERE {condition} ORDER BY number LIMIT {limit})
"""

_CLAIMED = _READ.format(condition="state = 'planned'", limit="?")

_CLAIM = """
    UPDATE item SET state = 'sending', tries = tries + 1, changed_at = ?
    WHERE number IN (SELECT number FROM item WHERE state = 'planned' ORDER BY number LIMIT ?)
"""

_UPDATE = """
    UPDATE item SET state = column2, tries = column3, request_id = column4, code = column5,
    error = column6, outcome = column7, changed_at = ?
    FROM (VALUES {rows}) WHERE workflow_id = column1
"""
_UPDATE_ROW = "(?, ?, ?, ?, ?, ?, ?)"
_UPDATE_MOST = 100
"""Rows at a time: SQLite takes 999 values at the least."""


class SqliteJournal:
    """A journal in one SQLite file.

    Args:
        path: Where it is; made if it isn't there.
    """

    CHUNK = 1000
    FIND = 500

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._database = Database(path, _LAYOUT)

    async def open(self, server: str, settings: Mapping[str, Any]) -> None:
        """Open it for a job.

        Raises:
            JournalError: It is of another server or job, in use, torn, foreign or newer.
        """
        try:
            await self._database.open()
        except JournalError as error:
            published = read_published(self.path)
            if "in use" in str(error) and published:
                raise JournalError(f"{error} (process {published.get('process')})") from None
            raise
        mine = {"server": server, "settings": json.dumps(settings, sort_keys=True)}
        try:
            header = await self.header()
            self._check_job(header, mine)
            if not header:
                mine["created_at"] = datetime.now(UTC).isoformat()
                await self._set_header(mine)
        except BaseException:
            await self._database.close()
            raise

    def _check_job(self, header: Mapping[str, str], mine: Mapping[str, str]) -> None:
        for name, found in header.items():
            if mine.get(name, found) != found:
                raise JournalError(
                    f"{self.path} is the journal of a job with another {name}: {found}, not {mine[name]}"
                )

    async def open_to_read(self) -> dict[str, str]:
        """Open it to look at it, whatever job it is of; gives its header."""
        if not self.path.exists():
            raise JournalError(f"there is no journal {self.path}")
        await self._database.open()
        return await self.header()

    async def close(self) -> None:
        """Let the file go."""
        await self._database.close()

    async def header(self) -> dict[str, str]:
        """The job's server, settings and times."""
        return dict(
            await self._database.run(
                lambda c: c.execute("SELECT name, value FROM header").fetchall()
            )
        )

    async def _set_header(self, values: Mapping[str, str]) -> None:
        rows = list(values.items())
        await self._database.run(
            lambda c: c.executemany("INSERT OR REPLACE INTO header VALUES (?, ?)", rows)
        )

    async def is_planned(self) -> bool:
        """Whether all targets are in it."""
        return "planned_at" in await self.header()

    async def finish_planning(self) -> None:
        """All targets are in it."""
        await self._set_header({"planned_at": datetime.now(UTC).isoformat()})

    async def clear(self) -> None:
        """Forget the targets of a planning that came to no end."""
        await self._database.run(lambda c: c.execute("DELETE FROM item"))

    async def add(self, targets: Sequence[tuple[str, Baseline | None]]) -> None:
        """Write targets down; one that is there already stays as it is."""
        now = datetime.now(UTC).isoformat()
        rows = [(one, ItemState.PLANNED, _dump(baseline), now) for one, baseline in targets]
        await self._database.run(
            lambda c: c.executemany(
                "INSERT OR IGNORE INTO item (workflow_id, state, baseline, changed_at) "
                "VALUES (?, ?, ?, ?)",
                rows,
            )
        )

    async def set_baselines(self, found: Mapping[str, Baseline]) -> None:
        """Write down what planned items are like now."""
        rows = [(_dump(baseline), one) for one, baseline in found.items()]
        await self._database.run(
            lambda c: c.executemany(
                "UPDATE item SET baseline = ? WHERE workflow_id = ? AND state = 'planned'", rows
            )
        )

    async def claim(self, most: int) -> list[JournalItem]:
        """Take planned items, and mark them as being sent."""
        return await self._database.run_together(_claim, most)

    async def update(self, items: Sequence[JournalItem]) -> None:
        """Write down where items are now."""
        await self._database.run_together(_update, items)

    async def counts(self) -> dict[ItemState, int]:
        """How many items are in which state."""
        rows = await self._database.run(
            lambda c: c.execute("SELECT state, count(*) FROM item GROUP BY state").fetchall()
        )
        return {ItemState(state): count for state, count in rows}

    async def find(self, workflow_ids: Sequence[str]) -> list[JournalItem]:
        """The items of these ids."""
        found: list[JournalItem] = []
        for begin in range(0, len(workflow_ids), self.FIND):
            some = workflow_ids[begin : begin + self.FIND]
            marks = ", ".join("?" * len(some))
            query = _READ.format(condition=f"workflow_id IN ({marks})", limit=self.FIND)
            text, _ = await self._database.run(partial(_fetch, query=query, values=tuple(some)))
            found += _ITEMS.decode(text)
        return found

    async def items(self, *states: ItemState) -> AsyncIterator[JournalItem]:
        """The items in these states, or all, in the order in which they were planned."""
        wanted = states or tuple(ItemState)
        marks = ", ".join("?" * len(wanted))
        query = _READ.format(condition=f"state IN ({marks}) AND number > ?", limit=self.CHUNK)
        last: int | None = 0
        while last is not None:
            text, last = await self._database.run(
                partial(_fetch, query=query, values=(*wanted, last))
            )
            for item in _ITEMS.decode(text):
                yield item

    def publish(self, state: Mapping[str, Any]) -> Awaitable[None]:
        """Tell other processes, which can't read the journal now, where the job is."""
        published = {"process": os.getpid(), "at": datetime.now(UTC).isoformat(), **state}
        place = _published_at(self.path)

        def write(_connection: sqlite3.Connection) -> None:
            with suppress(OSError):  # it only informs: the job itself must not end for it
                draft = place.with_name(place.name + ".new")
                draft.write_text(json.dumps(published))
                draft.replace(place)

        return self._database.hand_in(write)


def _claim(connection: sqlite3.Connection, asked: Sequence[int]) -> list[list[JournalItem]]:
    """What several claim at the same time is taken at once, and dealt out in order."""
    most = sum(asked)
    text, _ = _fetch(connection, query=_CLAIMED, values=(most,))
    now = datetime.now(UTC)
    connection.execute(_CLAIM, (now.isoformat(), most))
    taken = (
        msgspec.structs.replace(item, state=ItemState.SENDING, tries=item.tries + 1, changed_at=now)
        for item in _ITEMS.decode(text)
    )
    return [list(islice(taken, most)) for most in asked]


def _update(connection: sqlite3.Connection, several: Sequence[Sequence[JournalItem]]) -> list[None]:
    now = datetime.now(UTC).isoformat()
    rows = [
        (i.workflow_id, i.state, i.tries, i.request_id, i.code, i.error, i.outcome)
        for items in several
        for i in items
    ]
    for begin in range(0, len(rows), _UPDATE_MOST):
        some = rows[begin : begin + _UPDATE_MOST]
        query = _UPDATE.format(rows=", ".join([_UPDATE_ROW] * len(some)))
        connection.execute(query, (now, *chain.from_iterable(some)))
    return [None] * len(several)


def _fetch(connection: sqlite3.Connection, *, query: str, values: tuple[Any, ...]) -> Any:
    return connection.execute(query, values).fetchone()


def read_published(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the job of a journal told last of where it is; None if it told nothing."""
    try:
        told: dict[str, Any] = json.loads(_published_at(Path(path)).read_text())
    except (OSError, ValueError):
        return None
    return told


def _published_at(path: Path) -> Path:
    return path.with_name(path.name + ".state")


def _dump(baseline: Baseline | None) -> str | None:
    return None if baseline is None else msgspec.json.encode(baseline).decode()
