"""The figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Told = Mapping[str, Any]


def make_table(told: Told, plot: str | None = None) -> str:
    """A question's plot, its figures, and under them its ratios with what was wanted.

    Args:
        told: What was measured.
        plot: Where the plot is, seen from the page; None leaves it out.
    """
    head = [f"### {told['title']}", ""]
    if plot is not None:
        head += [f"![{told['title']}]({plot})", ""]
    return "\n".join([*head, *figure_lines(told), "", *goal_lines(told)]) + "\n"


def figure_lines(told: Told) -> Iterator[str]:
    figures: Mapping[str, str] = told["figures"]
    yield "| | " + " | ".join(f"{name} ({unit})" for name, unit in figures.items()) + " |"
    yield "|---" * (len(figures) + 1) + "|"
    for contender, values in told["contenders"].items():
        cells = [show(values[figure]) for figure in figures]
        yield f"| {contender} | " + " | ".join(cells) + " |"


def goal_lines(told: Told) -> Iterator[str]:
    yield "| ratio | is | wanted | goal |"
    yield "|---|---|---|---|"
    for goal in told["goals"]:
        name = f"{goal['contender']} / {goal['by']}: {goal['figure']}"
        yield f"| {name} | {show(goal['ratio'])} | {wanted(goal)} | {verdict(goal)} |"
    for limit in told["limits"]:
        value = show(told["contenders"][limit["contender"]][limit["figure"]])
        name = f"{limit['contender']}: {limit['figure']}"
        yield f"| {name} | {value} | {wanted(limit)} | {verdict(limit)} |"


def wanted(goal: Told) -> str:
    if goal["at_most"] is not None:
        return f"at most {goal['at_most']:g}"
    return "told" if goal.get("at_least") is None else f"at least {goal['at_least']:g}"


def verdict(goal: Told) -> str:
    if goal["at_most"] is None and goal.get("at_least") is None:
        return ""
    return "met" if goal["met"] else "missed"


def show(value: Told) -> str:
    """The median, and how far the rounds lie apart."""
    return f"{number(value['median'])} ({number(value['low'])} to {number(value['high'])})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
