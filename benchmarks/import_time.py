"""How long does the import take?

Measured inside a fresh interpreter around the import itself, so that Python's own start, which is
the same for all, doesn't flatter the ratio.
"""

from __future__ import annotations

import importlib
import time

from measure import Contender, Facts, Goal, Question, take_turn


def import_now(module: str) -> dict[str, float]:
    began = time.perf_counter()
    importlib.import_module(module)
    return {"import": (time.perf_counter() - began) * 1000}


def ours(_facts: Facts) -> dict[str, float]:
    return import_now("knowledgestack_async")


def aiohttp(_facts: Facts) -> dict[str, float]:
    return import_now("aiohttp")


def official(_facts: Facts) -> dict[str, float]:
    return import_now("ksapi")


QUESTION = Question(
    name="import_time",
    title="How long does the import take?",
    figures={"import": "ms"},
    contenders=[
        Contender("knowledgestack-async", ours),
        Contender("aiohttp alone", aiohttp),
        Contender("ksapi 3.18.2", official, peer="ksapi-3.18.2"),
        Contender("ksapi 1.67.0", official, peer="ksapi-1.67.0"),
    ],
    goals=[
        Goal("knowledgestack-async", by="aiohttp alone", at_most=1.25),
        Goal("ksapi 3.18.2", by="knowledgestack-async"),
        Goal("ksapi 1.67.0", by="knowledgestack-async"),
    ],
    rounds=21,
    quick_rounds=5,
)

if __name__ == "__main__":
    take_turn(QUESTION)
