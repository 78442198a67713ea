"""Every item's outcome is told once a run of the job, also where nothing was sent for it."""

from __future__ import annotations

import pytest

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox
from support import KEY


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.journal"


def failed_box(count: int) -> Sandbox:
    return Sandbox(
        ingestions=count, statuses={"failed": 1.0}, superseded=0, speed=1000, api_key=KEY
    )


async def states_of(job):
    async with job:
        return {outcome.workflow_id: str(outcome.state) async for outcome in job}


@pytest.mark.parametrize("wait", [False, True])
async def test_what_doesnt_exist_is_told_too(wait, path):
    async with failed_box(3) as box, box.session() as session:
        ids = list(box.store.ids())
        told = await states_of(
            ks.rerun_ingestions(session, [*ids, "nope"], journal=path, wait=wait)
        )
        assert told == {**dict.fromkeys(ids, "accepted"), "nope": "refused"}
        again = await states_of(ks.rerun_ingestions(session, [], journal=path, wait=wait))
        assert again == {}


@pytest.mark.parametrize(("wait", "point"), [(False, "after"), (True, "after"), (False, "before")])
async def test_what_is_settled_by_proof_is_told(wait, point, path):
    async with failed_box(4) as box, box.session() as session:
        ids = list(box.store.ids())
        lost = box.faults.add(Fault("reset", route="rerun*", when=point))
        first = await states_of(ks.rerun_ingestions(session, ids, journal=path, wait=wait))
        assert first == dict.fromkeys(ids, "unknown")
        lost.remove()
        then = await states_of(ks.rerun_ingestions(session, [], journal=path, wait=wait))
        assert then == dict.fromkeys(ids, "accepted" if point == "after" else "unknown")
