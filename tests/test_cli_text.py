"""The small parts of the command line: texts, columns, exit codes, many ids at a time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

import knowledgestack_async as ks
from knowledgestack_async.cli.exits import Exit, Tally, exit_for, explain, worst
from knowledgestack_async.cli.many import Fan, for_each
from knowledgestack_async.cli.options import Options
from knowledgestack_async.cli.table import Column, Layout, column_for, field_of, sheet, show_time
from knowledgestack_async.cli.text import (
    ago,
    as_moment,
    clean,
    count_words,
    cut,
    flat,
    full_time,
    pad,
    status_color,
    width_of,
    wrap,
)

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (-30, "now"),
        (-90, "later"),
        (1, "1s ago"),
        (59, "59s ago"),
        (60, "1m ago"),
        (3599, "59m ago"),
        (7200, "2h ago"),
        (47 * 3600, "47h ago"),
        (49 * 3600, "2d ago"),
        (400 * 86_400, "400d ago"),
    ],
)
def test_times_are_short(seconds, text):
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_times_are_told_in_full_where_there_is_room():
    assert full_time(datetime.now(UTC)).endswith("(now)")


@pytest.mark.parametrize("value", [None, 3, "yesterday", {}])
def test_what_is_no_time_is_none(value):
    assert as_moment(value) is None


def test_a_time_that_is_none_is_shown_as_it_is():
    assert show_time("whenever") == "whenever"
    assert show_time(datetime.now(UTC).isoformat()) == "now"


def test_nothing_moves_the_cursor():
    assert clean("a\x1b[2Jb\nc\x9bd\u202ee") == "a [2Jb c d e"


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("résumé", 6), ("契約", 4), ("e\u0301", 1), ("", 0)]
)
def test_widths_count_columns(text, width):
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("契約書", 4, "契…"),
        ("契約書", 3, "契…"),
        ("áb́ć", 2, "á…"),
        ("é" * 9, 3, "éé…"),
    ],
)
def test_long_texts_are_cut(text, width, shown):
    assert cut(text, width) == shown
    assert width_of(pad(shown, width)) == width


def test_values_become_one_line():
    assert flat(None) == ""
    assert flat(True) == "yes"
    assert flat(False) == "no"
    assert flat({"first": "Lea", "last": None}) == "Lea"
    assert flat(["a", 3, None]) == "a, 3"
    assert flat("a\nb") == "a b"


def test_words_are_counted_and_colored():
    assert count_words(["a", "b", "b"]) == "2 b, 1 a"
    assert status_color("FAILED") == status_color("failed") == "red"
    assert status_color("unheard_of") is None


def test_lines_break_between_words_only():
    assert wrap("one ingest-01-02-03-04 two", 10, "  ") == ["one", "  ingest-01-02-03-04", "  two"]


def test_fields_are_reached_inside_others():
    record = {"uploader": {"name": "Lea"}, "status": "failed"}
    assert field_of(record, "uploader.name") == "Lea"
    assert field_of(record, "status.name") is None
    assert field_of(record, "other") is None


def columns(*ranks, least=4):
    return [
        Column(title="ID", fields=("id",)),
        *(Column(title=f"C{rank}", fields=(f"c{rank}",), rank=rank, least=least) for rank in ranks),
    ]


def plain(text, _color):
    return text


def test_a_table_that_fits_is_left_alone():
    layout = Layout(columns(1), [["i" * 5, "c" * 5]], 80)
    assert layout.row(["iiiii", "ccccc"], plain) == "iiiii  ccccc"
    assert layout.header() == "ID     C1"


def test_the_widest_column_is_cut_first_and_ids_never():
    layout = Layout(columns(1, 2), [["i" * 10, "a" * 10, "b" * 40]], 40)
    assert (
        layout.row(["i" * 10, "a" * 10, "b" * 40], plain) == f"{'i' * 10}  {'a' * 10}  {'b' * 15}…"
    )


def test_columns_are_dropped_by_rank_until_the_rest_fits():
    layout = Layout(columns(1, 2, 3), [["i" * 10, *["a" * 10] * 3]], 20)
    assert list(layout.widths) == [0, 1]
    assert layout.row(["i" * 10, *["a" * 10] * 3], plain) == f"{'i' * 10}  {'a' * 7}…"


def test_an_id_wider_than_the_terminal_stays_whole():
    layout = Layout(columns(1), [["i" * 50, "a" * 10]], 20)
    assert layout.row(["i" * 50, "a" * 10], plain) == "i" * 50


def test_empty_columns_go_unless_they_were_asked_for():
    rows = [["i", "", "b"]]
    assert list(Layout(columns(1, 2), rows, 80).widths) == [0, 2]
    assert list(Layout(columns(1, 2), rows, 80, keep_empty=True).widths) == [0, 1, 2]
    assert Layout(columns(), [[""]], 80).header() == ""


def test_columns_of_fields_know_ids_times_and_statuses():
    assert column_for("document_id", 1).least is None
    assert column_for("id", 1).least is None
    assert column_for("created_at", 1).show is show_time
    assert column_for("execution_status", 1).is_status
    assert column_for("error", 1).text({"error": "no"}) == "no"


def test_sheets_leave_out_what_is_empty():
    record = {"id": "a", "error": None, "uploader": {"name": "Lea", "more": {"x": 1}}, "list": []}
    assert sheet(record, None) == [
        "id:       a",
        "uploader:",
        "  name: Lea",
        "  more:",
        "    x: 1",
    ]
    assert sheet({"error": "one two three"}, 14) == ["error: one two", "       three"]
    assert sheet({}, 80) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ks.ConfigurationError("x"), Exit.USAGE),
        (ks.OutcomeUnknown("x"), Exit.UNKNOWN),
        (ks.Unauthorized("x"), Exit.AUTH),
        (ks.Forbidden("x"), Exit.AUTH),
        (ks.NotFound("x"), Exit.NOT_FOUND),
        (ks.Conflict("x"), Exit.FAILED),
        (ks.SessionError("x"), Exit.FAILED),
    ],
)
def test_errors_have_exit_codes(error, code):
    assert exit_for(error) == code


def test_the_worst_code_decides():
    assert worst([]) == worst([Exit.DONE]) == Exit.DONE
    ordered = [Exit.DONE, Exit.NOT_FOUND, Exit.FAILED, Exit.USAGE, Exit.AUTH, Exit.UNKNOWN]
    for place in range(1, len(ordered)):
        assert worst(ordered[: place + 1]) == ordered[place]


def test_a_tally_says_how_many_fared_how():
    tally = Tally()
    for code in (Exit.DONE, Exit.DONE, Exit.NOT_FOUND, Exit.UNKNOWN):
        tally.add(code)
    assert len(tally) == 4
    assert tally.code == Exit.UNKNOWN
    assert str(tally) == "2 done, 1 not found, 1 with unknown outcome"


def test_errors_are_told_in_two_lines_in_the_command_lines_own_words():
    error = ks.Unauthorized(
        "no", "GET", "/v1/x", 401, request_id="r1", tries=2, hint="Check KS_API_KEY."
    )
    assert explain(error) == [
        "Error: no (GET /v1/x: 401, request id r1, 2 tries)",
        "  Check KS_API_KEY or --api-key-file.",
    ]
    assert explain(ks.ConnectionFailed("no way", "GET", "/v1/x", tries=1)) == [
        "Error: no way (GET /v1/x)"
    ]
    assert explain(ks.ConfigurationError("oldest_first can't be honoured")) == [
        "Error: --oldest-first can't be honoured"
    ]


def test_the_servers_own_words_are_left_as_they_are():
    said = "query.uploader_user_id: base_url and name_like should be valid"
    hint = "Slow down: lower max_in_flight or rate."
    error = ks.UnprocessableEntity(said, "GET", "/v1/base_url", 422, hint=hint)
    assert explain(error) == [
        f"Error: {said} (GET /v1/base_url: 422)",
        "  Slow down: try again later, or with a lower --concurrency.",
    ]
    path = "kept/base_url/name_like.journal is not a journal"
    assert explain(ks.JournalError(path)) == [f"Error: {path}"]
    base_url = "base_url ('https://x.example/base_url'): it must not hold a query or fragment"
    assert explain(ks.ConfigurationError(base_url)) == [
        "Error: --base-url ('https://x.example/base_url'): it must not hold a query or fragment"
    ]


async def test_outcomes_come_in_order_or_as_they_come():
    async def work(id_):
        await asyncio.sleep(0.02 if id_ == "a" else 0)
        if id_ == "b":
            raise ks.NotFound("gone")
        return id_.upper()

    for in_order, expected in ((True, ["a", "b", "c", "d"]), (False, ["b", "c", "d", "a"])):
        async with Fan(["a", "b", "c", "d"], work, at_once=2, in_order=in_order) as fan:
            found = [outcome async for outcome in fan.outcomes()]
        assert [outcome.id for outcome in found] == expected
        assert {outcome.id: outcome.value for outcome in found}["c"] == "C"
        assert fan.not_begun == 0
        assert not fan.in_flight


async def test_what_nobody_foresaw_is_not_counted_but_raised():
    async def work(_id):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await for_each(Options(), Fan(["a"], work), lambda _id, _value: Exit.DONE)


async def test_a_refused_key_begins_no_more(capsys):
    begun = []

    async def work(id_):
        begun.append(id_)
        raise ks.Unauthorized("no")

    fan = Fan([str(number) for number in range(100)], work, at_once=3)
    assert await for_each(Options(), fan, lambda _id, _value: Exit.DONE) == Exit.AUTH
    assert len(begun) < 10
    assert f"{100 - len(begun)} not tried" in capsys.readouterr().err


@pytest.mark.parametrize("acts", [True, False])
async def test_an_interruption_tells_what_may_have_acted(capsys, acts):
    begun = asyncio.Event()

    async def work(id_):
        if id_ == "a":
            return id_
        begun.set()
        await asyncio.sleep(60)
        return id_

    fan = Fan(["a", "b", "c", "d"], work, at_once=2, in_order=False)
    task = asyncio.create_task(for_each(Options(), fan, lambda _id, _value: Exit.DONE, acts=acts))
    await begun.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    told = capsys.readouterr().err
    assert ("Interrupted: 1 done, 1 not begun." in told) is acts
    assert ("  b\n  c\n" in told) is acts


async def test_an_interruption_before_anything_began_says_so(capsys):
    async def work(id_):
        return id_

    fan = Fan(["a", "b"], work, at_once=1)

    def show(_id, _value):
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await for_each(Options(), fan, show, acts=True)
    assert "Interrupted: none done, 0 not begun." in capsys.readouterr().err
