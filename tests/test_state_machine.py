"""Any sequence of calls, faults, cancellations, restarts and clock steps, held against the sandbox's log.

The model is the sandbox's own list of effects: nothing acts twice, nothing is reported that did not
happen, and an outcome is unknown only where it truly was.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import knowledgestack_async as ks
from knowledgestack_async.sandbox import Fault, Sandbox, SteppedClock
from support import FakeClock, ids_of

FAULTS = st.sampled_from(
    [
        None,
        Fault("reset", when="before", times=1),
        Fault("reset", when="after", times=1),
        Fault("close", when="after", times=1),
        Fault("truncate", how="length", times=1),
        Fault("truncate", how="header", times=1),
        Fault("garbage", body="html", times=1),
        Fault("status", status=503, times=2),
        Fault("status", status=429, retry_after=3, times=1),
        Fault("status", status=500, effect=True, times=1),
        Fault("status", status=502, times=1),
        Fault("status", status=409, times=1),
    ]
)

LOST = {"reset", "close", "truncate", "garbage"}  # a page at 200 may be a proxy's own


class Calls(RuleBasedStateMachine):
    """Reruns, cancels, callbacks and deletes against one sandbox."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = SteppedClock()
        self.box = Sandbox(ingestions=12, runs=8, clock=self.clock, delete_running="allow")
        self.session: ks.Session | None = None
        self.allowed: Counter[tuple[str, str]] = Counter()
        self.loop.run_until_complete(self.begin())

    async def begin(self) -> None:
        await self.box.__aenter__()
        await self.open()

    async def open(self) -> None:
        self.session = self.box.session(clock=FakeClock(), chance=random.Random(1))
        await self.session.__aenter__()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.end())
        self.loop.close()

    async def end(self) -> None:
        if self.session is not None:
            await self.session.__aexit__(None, None, None)
        await self.box.__aexit__(None, None, None)
        asyncio.get_running_loop().call_soon(lambda: None)
        await asyncio.sleep(0)

    def effects(self, kind: str, id_: str) -> int:
        return sum((effect.kind, effect.id) == (kind, id_) for effect in self.box.effects)

    def call(self, kind: str, id_: str):
        assert self.session is not None
        return {
            "rerun": lambda s: ks.rerun_ingestion_workflow(s, id_),
            "cancel": lambda s: ks.cancel_workflow(s, id_),
            "delete_run": lambda s: ks.delete_workflow_run(s, id_),
            "callback": lambda s: ks.send_workflow_run_callback(s, id_, "COMPLETED"),
        }[kind](self.session)

    def target(self, kind: str, place: int) -> str | None:
        if kind in {"rerun", "cancel"}:
            ids = ids_of(self.box, "failed") if kind == "rerun" else ids_of(self.box, "processing")
        else:
            ids = list(self.box.store.runs.ids())
        return ids[place % len(ids)] if ids else None

    @rule(
        kind=st.sampled_from(["rerun", "cancel", "delete_run", "callback"]),
        place=st.integers(0, 20),
        fault=FAULTS,
    )
    def submit(self, kind: str, place: int, fault: Fault | None) -> None:
        id_ = self.target(kind, place)
        if id_ is None:
            return
        before = self.effects(kind, id_)
        handle = None if fault is None else self.box.faults.add(fault)
        error: Exception | None = None
        try:
            answer = self.loop.run_until_complete(self.call(kind, id_))
        except ks.RequestError as caught:
            error, answer = caught, None
        acted = self.effects(kind, id_) - before
        if handle is not None:
            handle.remove()
        self.allowed[kind, id_] += 1
        assert acted <= 1
        if isinstance(error, ks.OutcomeUnknown):
            assert kind in {"rerun", "cancel"}
            assert fault is not None
            assert fault.kind in LOST or fault.status in {500, 502}
        elif error is not None:
            assert acted == 0
        elif kind in {"rerun", "cancel"} or (kind == "callback" and answer.status == "accepted"):
            assert acted == 1

    @rule(place=st.integers(0, 20), steps=st.integers(0, 6), fault=FAULTS)
    def cancel_on_the_way(self, place: int, steps: int, fault: Fault | None) -> None:
        id_ = self.target("rerun", place)
        if id_ is None:
            return
        before = self.effects("rerun", id_)
        handle = None if fault is None else self.box.faults.add(fault)

        async def start_and_cancel() -> None:
            task = asyncio.ensure_future(self.call("rerun", id_))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.loop.run_until_complete(start_and_cancel())
        if handle is not None:
            handle.remove()
        self.allowed["rerun", id_] += 1
        assert self.effects("rerun", id_) - before <= 1

    @rule()
    def restart(self) -> None:
        async def again() -> None:
            assert self.session is not None
            await self.session.__aexit__(None, None, None)
            await self.open()

        self.loop.run_until_complete(again())

    @rule(seconds=st.floats(0.1, 20))
    def step(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def nothing_acts_more_often_than_it_was_asked_for(self) -> None:
        for (kind, id_), most in self.allowed.items():
            assert self.effects(kind, id_) <= most

    @precondition(lambda self: self.session is not None)
    @invariant()
    def everything_that_was_taken_is_given_back(self) -> None:
        assert self.session is not None
        assert self.session.stats.in_flight == 0
        assert self.session.stats.waiting == 0


def test_any_sequence_of_calls_and_faults() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Calls, settings=settings(max_examples=25, stateful_step_count=12, deadline=None)
    )
