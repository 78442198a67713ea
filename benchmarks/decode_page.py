"""How long does it take to make models of a page of 100 summaries?

From the answer's bytes to typed, checked objects. The floor is msgspec decoding into plain Structs
with the same fields, the same enum and times, with nothing kept for ``raw`` and ``extra``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from measure import Contender, Facts, Goal, Question, take_turn
from payloads import CURRENT, EARLIER, make_page


def time_of(decode: Callable[[bytes], Any], shape: str, facts: Facts) -> dict[str, float]:
    """The median of many calls, the collector running as it does in an application."""
    body = make_page(shape, 0, 100, 100)
    decode(body)
    times: list[float] = []
    until = time.perf_counter() + (0.3 if facts["quick"] else 1.0)
    while time.perf_counter() < until or len(times) < 5:
        began = time.perf_counter()
        made = decode(body)
        times.append(time.perf_counter() - began)
        del made
    return {"page": median(times) * 1e6}


def ours(shape: str) -> Callable[[Facts], dict[str, float]]:
    def work(facts: Facts) -> dict[str, float]:
        from knowledgestack_async._codec import decode_summary_page

        return time_of(decode_summary_page, shape, facts)

    return work


def floor(shape: str) -> Callable[[Facts], dict[str, float]]:
    def work(facts: Facts) -> dict[str, float]:
        from floor import make_page_decoder

        return time_of(make_page_decoder(), shape, facts)

    return work


def official(shape: str) -> Callable[[Facts], dict[str, float]]:
    def work(facts: Facts) -> dict[str, float]:
        import ksapi

        client = ksapi.ApiClient()

        def decode(body: bytes) -> Any:
            model = "PaginatedResponseWorkflowSummaryResponse"
            return client.deserialize(body.decode(), model, "application/json")

        return time_of(decode, shape, facts)

    return work


QUESTION = Question(
    name="decode_page",
    title="How long does it take to make models of a page of 100 summaries?",
    figures={"page": "µs"},
    contenders=[
        Contender("knowledgestack-async", ours(CURRENT)),
        Contender("floor: msgspec Structs", floor(CURRENT)),
        Contender("ksapi 3.18.2", official(CURRENT), peer="ksapi-3.18.2"),
        Contender("knowledgestack-async, earlier fields", ours(EARLIER)),
        Contender("floor, earlier fields", floor(EARLIER)),
        Contender("ksapi 1.67.0, earlier fields", official(EARLIER), peer="ksapi-1.67.0"),
    ],
    goals=[
        Goal("ksapi 3.18.2", by="knowledgestack-async", at_least=6),
        Goal("knowledgestack-async", by="floor: msgspec Structs", at_most=2.2),
        Goal("knowledgestack-async, earlier fields", by="floor, earlier fields", at_most=2.2),
        Goal("ksapi 1.67.0, earlier fields", by="knowledgestack-async, earlier fields"),
    ],
)

if __name__ == "__main__":
    take_turn(QUESTION)
