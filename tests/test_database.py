"""The file behind journals and spools: durable, exclusive, and refused where it is not whole."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from collections import Counter

import pytest

import knowledgestack_async as ks
from knowledgestack_async._database import Database, Layout
from knowledgestack_async._journal import ItemState, JournalItem, SqliteJournal, read_published
from knowledgestack_async.sandbox import Sandbox

LAYOUT = Layout(
    what="notebook", application_id=77, version=3, tables="CREATE TABLE note (text TEXT NOT NULL)"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "note.db"


async def write(database: Database, *texts: str) -> None:
    await asyncio.gather(
        *(
            database.run(lambda c, text=text: c.execute("INSERT INTO note VALUES (?)", (text,)))
            for text in texts
        )
    )


async def read(database: Database) -> list[str]:
    rows = await database.run(lambda c: c.execute("SELECT text FROM note").fetchall())
    return [text for (text,) in rows]


async def test_what_was_committed_is_there_after_opening_again(path):
    database = Database(path, LAYOUT)
    assert await database.open() is True
    await write(database, "a", "b")
    await database.close()
    await database.close()
    database = Database(path, LAYOUT)
    assert await database.open() is False
    assert await read(database) == ["a", "b"]
    await database.close()


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
async def test_a_new_file_never_takes_up_the_log_of_one_that_is_gone(path, suffix):
    path.parent.mkdir(parents=True)
    log = path.with_name(path.name + suffix)
    log.write_bytes(b"somebody else's")
    with pytest.raises(ks.JournalError, match=f"note.db{suffix} of an earlier one") as caught:
        await Database(path, LAYOUT).open()
    assert "delete it" in str(caught.value)
    assert (log.read_bytes(), path.exists()) == (b"somebody else's", False)
    log.unlink()
    database = Database(path, LAYOUT)
    assert await database.open() is True
    await database.close()


async def test_a_killed_jobs_log_is_no_part_of_a_new_job(path):
    """SQLite would replay it into the new file: another job's items were sent, some twice."""
    old = SqliteJournal(path)
    await old.open("http://127.0.0.1", {})
    await old.add([(f"old-{n}", None) for n in range(50)])
    await old.finish_planning()
    path.rename(path.with_name("moved.journal"))  # its process still runs
    with pytest.raises(ks.JournalError, match=r"note\.db-wal of an earlier one"):
        await SqliteJournal(path).open("http://127.0.0.1", {})
    await old.close()
    new = SqliteJournal(path)
    await new.open("http://127.0.0.1", {})
    assert await new.counts() == {}
    await new.close()


async def test_it_is_as_durable_as_sqlite_can_be(path):
    database = Database(path, LAYOUT)
    await database.open()
    pragmas = {
        name: await database.run(lambda c, n=name: c.execute(f"PRAGMA {n}").fetchone()[0])
        for name in ("journal_mode", "synchronous", "locking_mode")
    }
    await database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "locking_mode": "exclusive"}


async def test_works_that_come_together_share_a_commit(path):
    database = Database(path, LAYOUT)
    await database.open()
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement.startswith("COMMIT")

    await database.run(lambda c: c.set_trace_callback(count))
    await write(database, *map(str, range(500)))
    await database.run(lambda c: c.set_trace_callback(None))
    await database.close()
    assert commits < 60


async def test_works_of_one_kind_that_come_together_are_done_as_one_and_answered_each(path):
    database = Database(path, LAYOUT)
    await database.open()
    groups: list[list[str]] = []

    def note(connection, texts):
        groups.append(list(texts))
        connection.executemany("INSERT INTO note VALUES (?)", [(text,) for text in texts])
        return [f"noted {text}" for text in texts]

    texts = [str(number) for number in range(200)]
    told = await asyncio.gather(
        *(database.run_together(note, text) for text in texts[:100]),
        database.run(lambda c: c.execute("SELECT count(*) FROM note").fetchone()[0] >= 0),
        *(database.run_together(note, text) for text in texts[100:]),
    )
    assert told == [f"noted {t}" for t in texts[:100]] + [True] + [
        f"noted {t}" for t in texts[100:]
    ]
    assert [text for group in groups for text in group] == await read(database) == texts
    assert len(groups) < 60
    await database.close()


async def test_a_work_for_many_that_fails_fails_them_all(path):
    database = Database(path, LAYOUT)
    await database.open()

    def fail(connection, texts):
        connection.execute("INSERT INTO note VALUES ('half')")
        connection.execute("INSERT INTO nothing VALUES (?)", texts)

    told = await asyncio.gather(
        *(database.run_together(fail, text) for text in "abc"), return_exceptions=True
    )
    assert [type(one) for one in told] == [ks.JournalError] * 3
    await database.close()
    database = Database(path, LAYOUT)
    await database.open()
    assert await read(database) == []
    await database.close()


async def test_what_several_claim_at_once_is_dealt_in_order_and_nothing_twice(path):
    journal = SqliteJournal(path)
    await journal.open("https://one.example", {})
    ids = [f"ingest-{number}" for number in range(10)]
    await journal.add([(id_, None) for id_ in ids])
    dealt = await asyncio.gather(*(journal.claim(most) for most in (3, 1, 4, 4, 2)))
    assert [len(items) for items in dealt] == [3, 1, 4, 2, 0]
    assert [item.workflow_id for items in dealt for item in items] == ids
    assert {item.state for items in dealt for item in items} == {ItemState.SENDING}
    await journal.close()


async def test_a_second_one_is_refused_at_once(path):
    first, second = Database(path, LAYOUT), Database(path, LAYOUT)
    await first.open()
    with pytest.raises(ks.JournalError, match="in use by another process"):
        await second.open()
    await second.close()
    await first.close()


LOCKED_OUT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("BEGIN EXCLUSIVE")
except sqlite3.OperationalError as error:
    print(error)
"""


async def test_one_that_is_refused_does_not_take_the_lock_of_the_first_away(path):
    first = Database(path, LAYOUT)
    await first.open()
    with pytest.raises(ks.JournalError, match="in use"):
        await Database(path, LAYOUT).open()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOCKED_OUT, str(path)), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await child.communicate()
    await first.close()
    assert told.decode().strip() == "database is locked"


async def test_killed_while_it_brings_its_log_in_it_loses_nothing(path, tmp_path):
    database = Database(path, LAYOUT)
    await database.open()
    await write(database, *("x" * 3000 for _ in range(5)))
    log = path.with_name(path.name + "-wal").read_bytes()
    before = path.read_bytes()
    await database.close()
    after = path.read_bytes()
    assert len(after) > len(before)
    cut = tmp_path / "cut.db"
    cut.write_bytes(after[:4096] + before[4096:])  # the first page says how long it will be
    cut.with_name(cut.name + "-wal").write_bytes(log)
    survivor = Database(cut, LAYOUT)
    await survivor.open()
    assert len(await read(survivor)) == 5
    await survivor.close()


async def test_work_that_fails_in_any_way_is_told_to_whoever_waits(path):
    database = Database(path, LAYOUT)
    await database.open()

    def fail(_connection: object) -> None:
        raise TypeError("no such thing")

    async with asyncio.timeout(5):
        with pytest.raises(ks.JournalError, match="can't be used: no such thing"):
            await database.run(fail)
        await database.close()


async def test_a_machine_that_has_no_thread_left_is_told(path, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    database = Database(path, LAYOUT)
    with pytest.raises(ks.JournalError, match="can't start new thread"):
        await database.open()
    await database.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files there")
async def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    async with asyncio.timeout(5):
        with pytest.raises(ks.JournalError, match="not a file"):
            await Database(tmp_path / "pipe", LAYOUT).open()


async def test_a_new_file_that_another_process_made_meanwhile_stays_that_ones(path):
    first = Database(path, LAYOUT)
    await first.open()
    whose = path.stat().st_ino
    late = Database(path, LAYOUT)
    late._create()
    assert path.stat().st_ino == whose
    assert {file.name for file in path.parent.iterdir()} <= {"note.db", "note.db-wal"}
    await first.close()


async def test_of_several_that_open_a_new_file_at_once_one_has_it(path):
    several = [Database(path, LAYOUT) for _ in range(8)]
    opened = await asyncio.gather(*(one.open() for one in several), return_exceptions=True)
    assert [type(one) for one in opened].count(ks.JournalError) == 7
    for one in several:
        await one.close()


async def test_a_file_is_made_where_there_are_no_links_too(path, monkeypatch):
    def refuse(*_paths: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    for _ in range(2):
        database = Database(path, LAYOUT)
        await database.open()
        await database.close()
        database._create()


async def test_foreign_newer_torn_and_empty_files_are_refused(path, tmp_path):
    database = Database(path, LAYOUT)
    await database.open()
    await write(database, *("x" * 500 for _ in range(100)))
    await database.close()
    whole = path.read_bytes()
    spoiled = {
        "empty": b"",
        "text": b"hello, this is not a database at all" * 200,
        "torn": whole[: len(whole) // 2 // 4096 * 4096],
        "overwritten": whole[:8192] + b"\xff" * 4096 + whole[12288:],
    }
    for name, content in spoiled.items():
        other = tmp_path / name
        other.write_bytes(content)
        with pytest.raises(ks.JournalError, match=r"not a notebook|damaged"):
            await Database(other, LAYOUT).open()
        assert other.read_bytes() == content
    with pytest.raises(ks.JournalError, match="not a diary"):
        await Database(path, Layout(what="diary", application_id=1, version=1, tables="")).open()
    older = Layout(what="notebook", application_id=77, version=2, tables="")
    with pytest.raises(ks.JournalError, match="newer release"):
        await Database(path, older).open()


async def test_cut_anywhere_it_is_whole_or_refused(path, tmp_path):
    database = Database(path, LAYOUT)
    await database.open()
    await write(database, *(f"{n:0300}" for n in range(60)))
    await database.close()
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 1500), len(whole) - 1):
        cut = tmp_path / f"cut-{length}"
        cut.write_bytes(whole[:length])
        with pytest.raises(ks.JournalError):
            await Database(cut, LAYOUT).open()


async def test_a_log_of_the_last_commits_that_is_torn_loses_only_its_end(path, tmp_path):
    database = Database(path, LAYOUT)
    await database.open()
    for number in range(20):
        await write(database, str(number))
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size
    for place, length in enumerate(range(0, size, size // 12)):
        copy = tmp_path / f"copy-{place}.db"
        shutil.copy(path, copy)
        copy.with_name(copy.name + "-wal").write_bytes(log.read_bytes()[:length])
        survivor = Database(copy, LAYOUT)
        await survivor.open()
        found = await read(survivor)
        await survivor.close()
        assert found == [str(number) for number in range(len(found))]
    await database.close()


async def test_a_disk_that_is_full_fails_all_that_follows(path):
    database = Database(path, LAYOUT)
    await database.open()
    await database.run(lambda c: c.execute("PRAGMA max_page_count = 3"))
    with pytest.raises(ks.JournalError, match="full"):
        await write(database, "x" * 20_000)
    with pytest.raises(ks.JournalError, match="full"):
        await write(database, "small")
    await database.close()


async def test_a_place_that_cant_be_written_is_said(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(ks.JournalError, match="can't be used"):
        await Database(blocked / "note.db", LAYOUT).open()


async def test_whoever_went_away_is_not_told(path):
    database = Database(path, LAYOUT)
    await database.open()
    gone = database.hand_in(lambda c: c.execute("INSERT INTO note VALUES ('kept')"))
    gone.cancel()
    assert await read(database) == ["kept"]
    await database.close()


async def test_a_full_disk_stops_a_job_before_anything_more_is_sent(path, monkeypatch):
    original = SqliteJournal.finish_planning

    async def fill_the_disk(journal: SqliteJournal) -> None:
        await original(journal)
        pages = await journal._database.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await journal._database.run(lambda c: c.execute(f"PRAGMA max_page_count = {pages}"))

    monkeypatch.setattr(SqliteJournal, "finish_planning", fill_the_disk)
    # Each answer names its request, and the journal keeps that name: so it grows.
    box = Sandbox(ingestions=400, statuses={"completed": 1.0}, dialect="system-jobs")
    async with box, box.session(dialect="system-jobs") as session:
        job = ks.rerun_ingestions(session, box.store.ids(), journal=path, concurrency=5)
        with pytest.raises(ks.JournalError, match="full"):
            async with job:
                await job.finish()
        assert len(box.effects) < 400
        monkeypatch.undo()
        async with ks.rerun_ingestions(session, [], journal=path) as job:
            await job.finish()
        effects = Counter(effect.id for effect in box.effects)
        assert sum(job.report.counts.values()) == 400
        assert max(effects.values()) == 1


async def test_a_journal_is_read_by_others_when_it_is_free(path):
    journal = SqliteJournal(path)
    with pytest.raises(ks.JournalError, match="no journal"):
        await journal.open_to_read()
    await journal.open("https://one.example", {"wait": False})
    await journal.add([("a", None), ("b", None)])
    [claimed] = await journal.claim(1)
    assert claimed == JournalItem(
        workflow_id="a", state=ItemState.SENDING, tries=1, changed_at=claimed.changed_at
    )
    journal.publish({"done": 0})
    await journal.close()
    assert read_published(path)["done"] == 0
    assert read_published(path.with_name("other")) is None
    header = await journal.open_to_read()
    assert header["server"] == "https://one.example"
    assert await journal.counts() == {ItemState.SENDING: 1, ItemState.PLANNED: 1}
    await journal.close()


async def test_a_torn_journal_is_an_error_of_the_journal(path):
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\x00" + b"\x00" * 50)
    with pytest.raises(ks.JournalError):
        await SqliteJournal(path).open("https://one.example", {})


async def test_the_thread_ends_when_nobody_waits_any_more(path):
    database = Database(path, LAYOUT)
    await database.open()
    database._loop = None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await read(database)
    await database.close()
