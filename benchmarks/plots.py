"""One plot a question: the contenders' main figure, with the spread of the rounds."""

from __future__ import annotations

import textwrap
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.figure import Figure
from measure import Result

OURS, THEIRS = "#2f6f6d", "#b9c4c9"
TITLE_WIDTH = 60
"""As many characters fit beside the longest name of a contender."""

# The same bytes each time, and text that stays text.
mpl.rcParams.update({"svg.hashsalt": "knowledgestack-async", "svg.fonttype": "none"})


def draw(result: Result, path: Path) -> None:
    """Draw a question's plot."""
    question = result.question
    names = [contender.name for contender in question.contenders][::-1]
    values = [result.values(name) for name in names]
    middles = [median(of_rounds) for of_rounds in values]
    below = [middle - min(each) for middle, each in zip(middles, values, strict=True)]
    above = [max(each) - middle for middle, each in zip(middles, values, strict=True)]
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    colours = [OURS if name.startswith("knowledgestack-async") else THEIRS for name in names]
    axes.barh(names, middles, xerr=[below, above], color=colours, ecolor="#555555", capsize=2)
    unit = next(iter(question.figures.values()))
    axes.set_xlabel(f"{unit} ({'more' if question.more_is_better else 'less'} is better)")
    title = textwrap.fill(question.title, TITLE_WIDTH)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
