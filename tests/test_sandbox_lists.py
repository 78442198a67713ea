"""Lists that misbehave: sizes that are cut down, said or not, and rows that are dropped late."""

import json

import aiohttp
import pytest

from knowledgestack_async.sandbox import Sandbox, SteppedClock


@pytest.fixture
async def serve():
    """Starts sandboxes, and reads pages from them."""
    opened = []
    async with aiohttp.ClientSession() as session:

        async def start(**options):
            box = await Sandbox(clock=SteppedClock(), runs=0, **options).__aenter__()
            opened.append(box)

            async def page(query):
                url = f"{box.base_url}{box.settings.dialect.prefix}/document_versions?{query}"
                headers = {"Authorization": f"Bearer {box.api_key}"}
                async with session.get(url, headers=headers) as response:
                    body = json.loads(await response.text())
                    ids = [item["workflow_id"] for item in body.pop("items", ())]
                    return response.status, ids, body

            return box, page

        yield start
        for box in opened:
            await box.__aexit__(None, None, None)


@pytest.mark.parametrize("dialect", ["offset", "system-jobs-unfiltered", "system-jobs"])
@pytest.mark.parametrize("echoes", [True, False])
async def test_a_page_is_cut_down_to_the_cap(serve, dialect, echoes):
    box, page = await serve(dialect=dialect, page_cap=6, echoes_cap=echoes)
    ids = box.store.ids()
    status, found, envelope = await page("limit=10&offset=5")
    assert (status, found) == (200, ids[5:11])
    assert envelope == {"total": 20, "limit": 6 if echoes else 10, "offset": 5}
    assert (await page("limit=4&offset=5"))[1:] == (
        ids[5:9],
        {"total": 20, "limit": 4, "offset": 5},
    )
    assert (await page("limit=101"))[0] == 422


@pytest.mark.parametrize("echoes", [True, False])
async def test_numbered_pages_follow_each_other_at_the_cap(serve, echoes):
    box, page = await serve(page_cap=6, echoes_cap=echoes)
    pages = [await page(f"page={number}&page_size=10") for number in range(1, 6)]
    assert [len(found) for _, found, _ in pages] == [6, 6, 6, 2, 0]
    assert [one for _, found, _ in pages for one in found] == box.store.ids()
    assert {envelope["page_size"] for _, _, envelope in pages} == {6 if echoes else 10}


async def test_a_cap_goes_below_a_size_that_is_used_whatever_is_asked_for(serve):
    _, page = await serve(dialect="offset", honoured_page_size=8, page_cap=6, echoes_cap=False)
    _, found, envelope = await page("limit=3")
    assert (len(found), envelope["limit"]) == (6, 8)


@pytest.mark.parametrize("kind", ["set", "frozenset", "keys", "function"])
async def test_hidden_items_are_counted_and_take_up_places(serve, kind):
    box, page = await serve(dialect="system-jobs")
    ids = box.store.ids()
    hidden = ids[2:9]
    box.settings.hidden = {
        "set": set(hidden),
        "frozenset": frozenset(hidden),
        "keys": dict.fromkeys(hidden).keys(),
        "function": lambda ingestion: ingestion.workflow_id in hidden,
    }[kind]
    pages = [await page(f"limit=4&offset={start}") for start in (0, 4, 8, 12)]
    assert [found for _, found, _ in pages] == [ids[:2], [], ids[9:12], ids[12:16]]
    assert {(envelope["total"], envelope["limit"]) for _, _, envelope in pages} == {(20, 4)}
    box.settings.hidden = None
    assert (await page("limit=4"))[1] == ids[:4]


async def test_what_is_hidden_can_be_told_by_anything_that_an_ingestion_has(serve):
    box, page = await serve(hidden=lambda ingestion: ingestion.shown.status == "failed")
    _, found, envelope = await page("page_size=20")
    assert found == [one for one in box.store.ids() if box.store.get(one).shown.status != "failed"]
    assert (len(found), envelope["total"]) == (14, 20)


async def test_a_filter_counts_what_is_hidden_too(serve):
    box, page = await serve(dialect="system-jobs")
    failed = box.store.ids("failed")
    box.settings.hidden = set(failed[1:])
    _, found, envelope = await page("status=failed")
    assert (found, envelope["total"]) == (failed[:1], len(failed))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("page_cap", 0, "page_cap must be at least 1, not 0"),
        ("page_cap", -3, "page_cap must be at least 1, not -3"),
        ("max_page_size", 0, "max_page_size must be at least 1"),
        ("honoured_page_size", 0, "honoured_page_size must be at least 1"),
        ("hidden", "ingest-1", "hidden must be a set of ids or a function, not a str"),
        ("hidden", ["ingest-1"], "hidden must be a set of ids or a function, not a list"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        Sandbox(**{name: value})
    box = Sandbox(ingestions=1)
    before = getattr(box.settings, name)
    with pytest.raises(ValueError, match=message):
        setattr(box.settings, name, value)
    assert getattr(box.settings, name) == before
