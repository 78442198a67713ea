"""What an earlier job left beside the name of a new journal is no part of the new one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections import Counter

import attrs
import pytest
from test_cli_support import KEY, make_cli, served

import knowledgestack_async as ks
from bulk_kills import CHILD
from knowledgestack_async.sandbox import Sandbox, SteppedClock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no file in use is moved there")

NAME = "night.journal"
SUFFIXES = ("-wal", "-journal", "-shm", ".state")
TAKEN_UP = ("-wal", "-journal")
"""What SQLite would bring into a new file."""


@pytest.fixture(scope="module")
def server():
    """The server of all jobs here, for a journal knows its server. It runs in a thread."""
    shares = {"failed": 0.75, "completed": 0.25}
    with served(ingestions=80, statuses=shares, superseded=0, speed=1000) as sandbox:
        yield sandbox


@attrs.frozen
class Old:
    """A job that was killed: its journal, what lay beside it, and what it was to run again."""

    main: bytes
    beside: dict[str, bytes]
    ids: frozenset[str]


HOT = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = DELETE")
connection.execute("PRAGMA cache_size = 1")  # so that it writes to the file before its end
connection.execute("BEGIN")
connection.execute("UPDATE item SET state = 'planned', error = hex(randomblob(1000))")
os.kill(os.getpid(), signal.SIGKILL)
"""

SHARED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("SELECT count(*) FROM item").fetchone()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def old(server, tmp_path_factory):
    """What a job leaves that is killed in the middle, and what is left by whoever looks into it then."""
    path = tmp_path_factory.mktemp("old") / NAME
    ids = frozenset(server.store.ids("failed"))
    arguments = [sys.executable, str(CHILD), server.base_url, KEY, str(path), "answered", "3"]
    assert subprocess.run(arguments, check=False).returncode < 0
    main = path.read_bytes()
    beside = {name: beside_of(path, name).read_bytes() for name in ("-wal", ".state")}
    assert len(beside["-wal"]) > 4096
    shared = path.with_name("shared.journal")
    shared.write_bytes(main)
    beside_of(shared, "-wal").write_bytes(beside["-wal"])
    kill(SHARED, shared)
    beside["-shm"] = beside_of(shared, "-shm").read_bytes()
    hot = path.with_name("hot.journal")
    hot.write_bytes(main)
    beside_of(hot, "-wal").write_bytes(beside["-wal"])
    kill(HOT, hot)
    beside["-journal"] = beside_of(hot, "-journal").read_bytes()
    assert len(beside["-journal"]) > 4096
    return Old(main, beside, ids)


def kill(script, path):
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode < 0


def beside_of(path, suffix):
    return path.with_name(path.name + suffix)


@pytest.fixture
def new(server, old):
    """What the new job is to run again; before it, nothing has run."""
    for one in server.store.ids():
        server.store.set_status(one, "failed" if one in old.ids else "completed")
    server.forget_requests()
    return [one for one in server.store.ids() if one not in old.ids][:12]


def lay(old, place, suffixes, how):
    """An old job was killed there, and its journal deleted, or moved away without what is beside it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for suffix in suffixes:
        beside_of(place, suffix).write_bytes(old.beside[suffix])
    if how == "moved":
        place.with_name("moved.journal").write_bytes(old.main)


def ran(server):
    return Counter(effect.id for effect in server.effects if effect.kind == "rerun")


async def begin(server, ids, journal, **options):
    """Run a job; gives whether it was there before and its report, or why its journal was refused."""
    async with ks.Session(KEY, server.base_url) as session:
        try:
            async with ks.rerun_ingestions(session, ids, journal=journal, **options) as job:
                report = await job.finish()
                return job.resumed, report
        except ks.JournalError as error:
            return error


def check(server, old, new, came, told, suffixes, folder):
    """Nothing of the old job was sent; what lay there was refused, or put aside, in so many words."""
    effects = ran(server)
    assert not old.ids & effects.keys(), "of the old job"
    assert max(effects.values(), default=1) == 1
    strict = [suffix for suffix in suffixes if suffix in TAKEN_UP]
    if isinstance(came, ks.JournalError):
        assert not effects
        assert any(NAME + suffix in str(came) for suffix in suffixes), came
    else:
        resumed, report = came
        assert not resumed
        assert {item.workflow_id for item in report.items} == set(new)
        assert report.counts == {"accepted": len(new)}
        assert effects == Counter(new)
        assert all(NAME + suffix in told for suffix in strict)
    kept = [file.read_bytes() for file in folder.iterdir() if file.is_file()]
    assert all(old.beside[suffix] in kept for suffix in strict), "it is destroyed"


SETS = [*((suffix,) for suffix in SUFFIXES), ("-wal", "-shm"), ("-wal", ".state"), SUFFIXES]
every_set = pytest.mark.parametrize("suffixes", SETS, ids="+".join)
every_way = pytest.mark.parametrize("how", ["deleted", "moved"])


@pytest.mark.no_cover
@every_set
@every_way
async def test_a_new_journal_inherits_nothing(server, old, new, tmp_path, caplog, suffixes, how):
    caplog.set_level(logging.INFO)
    lay(old, tmp_path / NAME, suffixes, how)
    came = await begin(server, new, tmp_path / NAME)
    check(server, old, new, came, caplog.text, suffixes, tmp_path)


@every_way
@pytest.mark.parametrize("options", [{"wait": True}, {"resend_unknown": True, "settle_after": 0.0}])
async def test_a_new_journal_inherits_nothing_however_it_is_run(
    server, old, new, tmp_path, caplog, how, options
):
    caplog.set_level(logging.INFO)
    lay(old, tmp_path / NAME, ["-wal", ".state"], how)
    came = await begin(server, new, tmp_path / NAME, **options)
    check(server, old, new, came, caplog.text, ["-wal", ".state"], tmp_path)


@pytest.mark.parametrize("suffix", TAKEN_UP)
@pytest.mark.parametrize("name", [NAME, f"./{NAME}", f"sub/../{NAME}", f"sub/{NAME}"])
async def test_a_journal_by_a_relative_path_inherits_nothing(
    server, old, new, tmp_path, monkeypatch, caplog, suffix, name
):
    caplog.set_level(logging.INFO)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sub" if name == f"sub/{NAME}" else tmp_path
    lay(old, folder / NAME, [suffix], "moved")
    came = await begin(server, new, name)
    check(server, old, new, came, caplog.text, [suffix], folder)


@pytest.mark.parametrize("suffix", TAKEN_UP)
async def test_a_journal_in_a_linked_folder_inherits_nothing(
    server, old, new, tmp_path, caplog, suffix
):
    caplog.set_level(logging.INFO)
    lay(old, tmp_path / "real" / NAME, [suffix], "deleted")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    came = await begin(server, new, tmp_path / "link" / NAME)
    check(server, old, new, came, caplog.text, [suffix], tmp_path / "real")


@pytest.mark.parametrize("suffix", TAKEN_UP)
@pytest.mark.parametrize("beside", ["the file", "the link"])
async def test_a_journal_by_a_link_whose_file_is_gone_inherits_nothing(
    server, old, new, tmp_path, suffix, beside
):
    """SQLite looks for a log beside the file that a link leads to."""
    real, link = tmp_path / "real" / NAME, tmp_path / "links" / "link.journal"
    link.parent.mkdir()
    real.parent.mkdir()
    lay(old, real if beside == "the file" else link, [suffix], "deleted")
    link.symlink_to(real)
    came = await begin(server, new, link)
    assert not old.ids & ran(server).keys()
    if isinstance(came, ks.JournalError):
        assert not server.effects
    else:
        assert came[1].counts == {"accepted": len(new)}
        assert ran(server) == Counter(new)


async def test_what_was_left_can_still_be_brought_to_where_its_journal_is_now(
    server, old, new, tmp_path
):
    """A journal that was moved needs its log: whatever became of it, it is whole."""
    lay(old, tmp_path / NAME, ["-wal"], "moved")
    await begin(server, new, tmp_path / NAME)
    [log] = [one for one in tmp_path.iterdir() if one.read_bytes() == old.beside["-wal"]]
    log.rename(tmp_path / "moved.journal-wal")
    server.forget_requests()
    came = await begin(server, [], tmp_path / "moved.journal")
    assert not isinstance(came, ks.JournalError), came
    resumed, report = came
    assert resumed
    assert {item.workflow_id for item in report.items} == set(old.ids)
    assert set(report.counts) <= {"accepted", "unknown"}
    assert max(ran(server).values()) == 1
    assert ran(server).keys() <= old.ids


async def test_once_what_was_left_is_deleted_the_name_is_free(server, old, new, tmp_path):
    lay(old, tmp_path / NAME, SUFFIXES, "deleted")
    for suffix in SUFFIXES:
        beside_of(tmp_path / NAME, suffix).unlink()
    resumed, report = await begin(server, new, tmp_path / NAME)
    assert (resumed, report.counts) == (False, {"accepted": len(new)})
    assert ran(server) == Counter(new)


async def test_a_job_that_was_killed_still_goes_on_with_its_own_log(server, old, new, tmp_path):
    (tmp_path / NAME).write_bytes(old.main)
    lay(old, tmp_path / NAME, ["-wal", ".state"], "deleted")
    came = await begin(server, new, tmp_path / NAME)
    assert not isinstance(came, ks.JournalError), came
    resumed, report = came
    assert resumed
    assert {item.workflow_id for item in report.items} == set(old.ids)
    assert not ran(server).keys() & set(new)
    assert max(ran(server).values()) == 1


# --- while the old job's process still runs ---

HOLDER = """
import asyncio, json, sys
import knowledgestack_async as ks

async def main(url, key, path, ids):
    async with ks.Session(key, url) as session:
        options = {"journal": path, "max_in_flight": 3, "concurrency": 3}
        async with ks.rerun_ingestions(session, json.loads(ids), **options) as job:
            async for outcome in job:
                print(outcome.state, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def holding(box, path, ids):
    """A job in a process of its own that has sent three, and waits until they are over."""
    arguments = [box.base_url, KEY, str(path), json.dumps(ids)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            for _ in range(3):
                assert await child.stdout.readline() == b"accepted\n"
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@pytest.mark.no_cover
@every_way
@pytest.mark.parametrize("is_killed", [False, True], ids=["goes on", "killed later"])
async def test_a_job_whose_journal_was_taken_from_under_it_and_a_new_one_run_nothing_twice(
    tmp_path, how, is_killed
):
    path, clock = tmp_path / NAME, SteppedClock()
    shares = {"statuses": {"failed": 1.0}, "superseded": 0, "pipeline_seconds": (50.0, 60.0)}
    async with Sandbox(ingestions=16, clock=clock, api_key=KEY, **shares) as box:
        ids = list(box.store.ids())
        mine, theirs = ids[:10], ids[10:]
        async with holding(box, path, theirs) as child:
            log = beside_of(path, "-wal")
            assert log.exists()
            if how == "moved":
                path.rename(tmp_path / "moved.journal")
            else:
                path.unlink()
            came = await begin(box, mine, path)
            assert set(ran(box)) - set(mine) == set(theirs[:3]), "what the other one had sent"
            if is_killed:
                child.kill()
            async with asyncio.timeout(20):
                while child.returncode is None:
                    clock.advance(30)
                    await asyncio.sleep(0.02)
        effects = ran(box)
        assert max(effects.values()) == 1
        if not is_killed:
            assert set(theirs) <= effects.keys(), "the other one's are its own matter"
        if isinstance(came, ks.JournalError):
            assert log.name in str(came)
            assert set(effects) <= set(theirs)
        else:
            assert set(mine) <= effects.keys()
            _, report = await begin(box, mine, path)
            assert report.counts == {"accepted": 10}
        assert max(ran(box).values()) == 1


# --- on the command line ---


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path, server):
    return make_cli(monkeypatch, capsys, tmp_path, server)


@pytest.mark.parametrize("suffix", TAKEN_UP)
def test_the_command_line_reruns_what_it_was_given_or_says_what_is_in_the_way(
    cli, server, old, new, tmp_path, suffix
):
    journal, source = tmp_path / NAME, tmp_path / "new.txt"
    source.write_text("\n".join(new))
    lay(old, journal, [suffix, ".state"], "deleted")
    result = cli("ingestions", "rerun", "--from", str(source), "--yes", "--journal", str(journal))
    effects = ran(server)
    assert not old.ids & effects.keys()
    assert NAME + suffix in result.err
    if result.code == 0:
        assert effects == Counter(new)
        assert f"Of {len(new)}: {len(new)} accepted." in result.err
    else:
        assert not effects
        assert result.err.startswith("Error: ")


def test_a_new_job_is_shown_by_what_is_its_own(cli, server, old, new, tmp_path):
    journal, source = tmp_path / NAME, tmp_path / "new.txt"
    source.write_text("\n".join(new))
    lay(old, journal, [".state"], "deleted")
    if cli(
        *("ingestions", "rerun", "--from", str(source), "--yes", "--journal", str(journal))
    ).code:
        return  # it was refused: nothing is shown
    shown = json.loads(cli("jobs", "show", str(journal), "-o", "json").out)
    assert (shown["state"], shown["counts"]) == ("finished", {"accepted": len(new)})


@pytest.mark.parametrize("is_whole", [False, True], ids=["killed", "closed"])
def test_a_job_that_is_deleted_leaves_nothing_for_the_next_one(
    cli, server, old, new, tmp_path, is_whole
):
    folder = tmp_path / "jobs"
    journal = folder / NAME
    lay(old, journal, ["-wal", ".state", "-shm"], "deleted")
    journal.write_bytes(old.main)
    if is_whole:
        with contextlib.closing(sqlite3.connect(journal)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    assert cli("jobs", "delete", str(journal), "--yes").code == 0
    assert list(folder.iterdir()) == []
    source = tmp_path / "new.txt"
    source.write_text("\n".join(new))
    again = cli("ingestions", "rerun", "--from", str(source), "--yes", "--journal", str(journal))
    assert again.code == 0, again.err
    assert ran(server) == Counter(new)


def test_a_job_that_is_deleted_takes_its_rollback_journal_along(cli, server, old, tmp_path):
    """It is there where a close was killed; the next job of that name would be rolled back by it."""
    folder = tmp_path / "jobs"
    journal = folder / NAME
    lay(old, journal, ["-wal"], "deleted")
    journal.write_bytes(old.main)
    kill(HOT, journal)
    assert beside_of(journal, "-journal").exists()
    assert cli("jobs", "delete", str(journal), "--yes").code == 0
    assert list(folder.iterdir()) == []


# --- a spool ---

SPOOLER = """
import asyncio, os, signal, sys
import knowledgestack_async as ks
from knowledgestack_async._database import Database

async def die(_database):
    os.kill(os.getpid(), signal.SIGKILL)

async def main(url, key, spool, run_id):
    Database.close = die  # what was decided is committed, and nothing is sent yet
    async with ks.Session(key, url) as session:
        async with ks.report_outcome(session, run_id, spool=spool) as outcome:
            outcome.fail("of the old one")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def spool(server, tmp_path):
    """A spool with one outcome, whose process was killed before that was sent; and whose it is."""
    path, run_id = tmp_path / "outcomes.db", server.store.add_run("RUNNING").id
    server.forget_requests()
    arguments = [server.base_url, KEY, str(path), run_id]
    killed = subprocess.run([sys.executable, "-c", SPOOLER, *arguments], check=False)
    assert killed.returncode < 0
    assert beside_of(path, "-wal").stat().st_size
    return path, run_id


async def test_a_spool_that_was_killed_still_delivers_by_its_own_log(server, spool):
    path, run_id = spool
    async with ks.Session(KEY, server.base_url) as session:
        assert (await ks.deliver_spooled(session, path)).delivered == (run_id,)
    assert server.store.get_run(run_id).error == "of the old one"


@every_way
async def test_a_new_spool_inherits_nothing_and_what_is_reported_is_delivered(server, spool, how):
    path, run_id = spool
    path.rename(path.with_name("moved.db")) if how == "moved" else path.unlink()
    other = server.store.add_run("RUNNING").id
    async with ks.Session(KEY, server.base_url) as session:
        async with ks.report_outcome(session, other, spool=path) as outcome:
            pass
        assert outcome.delivered
        with contextlib.suppress(ks.JournalError):
            report = await ks.deliver_spooled(session, path)
            assert (report.delivered, dict(report.left)) == ((), {})
    assert server.store.get_run(other).status == "COMPLETED"
    assert server.store.get_run(run_id).status == "RUNNING"


@every_way
async def test_what_an_earlier_spool_left_is_not_thrown_away_without_a_word(
    server, spool, how, caplog
):
    """There is an outcome in it that nobody was told."""
    caplog.set_level(logging.INFO)
    path, _ = spool
    log = beside_of(path, "-wal")
    left = log.read_bytes()
    path.rename(path.with_name("moved.db")) if how == "moved" else path.unlink()
    told = ""
    async with ks.Session(KEY, server.base_url) as session:
        async with ks.report_outcome(session, server.store.add_run("RUNNING").id, spool=path):
            pass
        try:
            await ks.deliver_spooled(session, path)
        except ks.JournalError as error:
            told = str(error)
    assert log.name in told + caplog.text
    assert left in [file.read_bytes() for file in path.parent.iterdir() if file.is_file()]


def test_the_child_processes_use_this_package():
    script = "import knowledgestack_async; print(knowledgestack_async.__file__)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert os.fsdecode(found.stdout.strip()) == ks.__file__
