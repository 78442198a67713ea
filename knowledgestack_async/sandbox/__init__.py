"""An embedded Knowledge Stack on loopback: for tests, for demos, and for trying things out.

    async with Sandbox(ingestions=500, seed=7) as sandbox:
        sandbox.faults.add(Fault("status", status=503, probability=0.1))
        async with sandbox.session() as session:
            ...

It is a real HTTP server with a store, pipelines that run on a clock of their own, and faults on
demand; nothing of it leaves the machine.
"""

from knowledgestack_async.sandbox.clock import Clock, RunningClock, SteppedClock
from knowledgestack_async.sandbox.faults import Fault, FaultHandle, Faults
from knowledgestack_async.sandbox.recording import Effect, RecordedRequest
from knowledgestack_async.sandbox.records import (
    ConflictError,
    Filters,
    Ingestion,
    NotFoundError,
    Run,
)
from knowledgestack_async.sandbox.sandbox import Sandbox
from knowledgestack_async.sandbox.settings import Settings
from knowledgestack_async.sandbox.store import Store

__all__ = [
    "Clock",
    "ConflictError",
    "Effect",
    "Fault",
    "FaultHandle",
    "Faults",
    "Filters",
    "Ingestion",
    "NotFoundError",
    "RecordedRequest",
    "Run",
    "RunningClock",
    "Sandbox",
    "Settings",
    "SteppedClock",
    "Store",
]
