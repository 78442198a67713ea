"""How things are measured: contenders take turns, each in a process of its own, and medians count.

A question is a file beside this one. The same file is also what a contender's process runs, in the
environment of its own client: so what is compared stands next to each other. Only the standard
library is imported here, for those environments have nothing else in common.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
"""What a contender is told: whether to be quick, and what the question has set up."""

PEERS = Path(os.environ.get("KS_PEERS", "peers"))


@dataclass(frozen=True)
class Contender:
    """One way to do it.

    Attributes:
        name: What the table calls it.
        work: Does it, and tells the figures by their names.
        peer: The environment that it runs in; by default the one that the SDK is in.
    """

    name: str
    work: Callable[[Facts], dict[str, float]]
    peer: str | None = None


@dataclass(frozen=True)
class Goal:
    """A ratio between two contenders' figures, and how large it may or must be.

    Attributes:
        contender: Whose figure is divided.
        by: By whose.
        figure: Which figure; by default the question's first.
        at_most: The ratio wanted, as an upper bound.
        at_least: The same as a lower bound.
        by_figure: The other's figure, if it is another one.
    """

    contender: str
    by: str
    figure: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    by_figure: str | None = None

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is what was wanted; anything is, if nothing was."""
        low = self.at_least if self.at_least is not None else ratio
        high = self.at_most if self.at_most is not None else ratio
        return low <= ratio <= high


@contextmanager
def nothing(_facts: Facts) -> Iterator[Facts]:
    """What a question sets up that needs nothing."""
    yield {}


@dataclass(frozen=True)
class Question:
    """Something to find out.

    Attributes:
        name: The file's name.
        title: The question.
        figures: The figures that contenders tell, each with its unit; the first is the main one.
        contenders: The ways to do it.
        goals: The ratios to tell.
        rounds: How often each contender has its turn.
        quick_rounds: The same for the quick choice.
        setup: What runs meanwhile, such as a server; gives further facts for the contenders.
        limits: Which figure of a contender's may be how large at most.
        more_is_better: Whether the main figure is a rate.
    """

    name: str
    title: str
    figures: Mapping[str, str]
    contenders: Sequence[Contender]
    goals: Sequence[Goal]
    rounds: int = 7
    quick_rounds: int = 3
    setup: Callable[[Facts], AbstractContextManager[Facts]] = nothing
    limits: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    more_is_better: bool = False


@dataclass
class Result:
    """What came of a question: each contender's figures, a value a round."""

    question: Question
    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def values(self, contender: str, figure: str | None = None) -> list[float]:
        """One figure of one contender, a value a round."""
        return self.rounds[contender][figure or next(iter(self.question.figures))]

    def ratios(self, goal: Goal) -> list[float]:
        """A goal's ratio, a value a round: both were measured one shortly after the other."""
        ours = self.values(goal.contender, goal.figure)
        theirs = self.values(goal.by, goal.by_figure or goal.figure)
        return [our / their for our, their in zip(ours, theirs, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """All of it, for the record."""
        return {
            "title": self.question.title,
            "figures": dict(self.question.figures),
            "contenders": {
                name: {figure: spread(values) for figure, values in figures.items()}
                for name, figures in self.rounds.items()
            },
            "goals": [
                {
                    "contender": goal.contender,
                    "by": goal.by,
                    "figure": goal.figure or next(iter(self.question.figures)),
                    "at_least": goal.at_least,
                    "at_most": goal.at_most,
                    "ratio": spread(self.ratios(goal)),
                    "met": goal.is_met(statistics.median(self.ratios(goal))),
                }
                for goal in self.question.goals
            ],
            "limits": [
                {
                    "contender": contender,
                    "figure": figure,
                    "at_most": most,
                    "met": statistics.median(self.values(contender, figure)) <= most,
                }
                for contender, (figure, most) in self.question.limits.items()
            ],
        }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, the lowest and the highest, and all values."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "values": list(values),
    }


def ask(question: Question, *, quick: bool) -> Result:
    """Measure: every contender has its turn in every round, in an order that changes."""
    result = Result(question)
    facts: dict[str, Any] = {"quick": quick}
    with question.setup(facts) as more:
        facts |= more
        for turn in range(question.quick_rounds if quick else question.rounds):
            order = [*question.contenders]
            shift = turn % len(order)
            for contender in order[shift:] + order[:shift]:
                told = run_contender(question, contender, facts)
                kept = result.rounds.setdefault(contender.name, {})
                for name, value in told.items():
                    kept.setdefault(name, []).append(value)
    return result


def run_contender(question: Question, contender: Contender, facts: Facts) -> dict[str, float]:
    """One contender's turn, in a process of its own."""
    python = sys.executable if contender.peer is None else peer_python(contender.peer)
    script = Path(__file__).with_name(f"{question.name}.py")
    done = subprocess.run(
        [python, script, contender.name, json.dumps(facts)], stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise SystemExit(f"{question.name}: {contender.name} failed")
    told: dict[str, float] = json.loads(done.stdout)
    return told


def peer_python(peer: str) -> str:
    """The Python of another client's environment."""
    python = PEERS / peer / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        raise SystemExit(f"there is no environment for {peer}; see benchmarks/README.md")
    return str(python)


def take_turn(question: Question) -> None:
    """What a contender's process does: the work that it is told to, printed as JSON."""
    name, facts = sys.argv[1], json.loads(sys.argv[2])
    contender = next(contender for contender in question.contenders if contender.name == name)
    print(json.dumps(contender.work(facts)))
