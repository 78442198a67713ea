"""``ks-async doctor``: what the way to the server is like, and what to do where it is bad."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from enum import StrEnum
from statistics import median
from typing import Any

import attrs
import click

import knowledgestack_async as ks

from .._settings import DEFAULT_BASE_URL
from .commands import Command
from .connection import find_key, run_with_session
from .exits import Exit, advice_for, exit_for, worst
from .options import Options, pass_options, printing
from .output import Shape, printer_for
from .table import Column

__all__ = ["doctor"]

PROBES = 5
PATIENCE = 15.0
SLOW = 1.0
FAR_APART = 30.0


class Verdict(StrEnum):
    """How good a finding is."""

    OK = "ok"
    SLOW = "slow"
    WRONG = "wrong"


@attrs.frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at.
        verdict: How good it is.
        found: What was found.
        advice: What to do about it, where it isn't good.
        code: The exit code that goes with it.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
    code: Exit = Exit.DONE

    def to_dict(self) -> dict[str, str]:
        """What is printed of it."""
        return {name: str(getattr(self, name)) for name in SHAPE.fields}


SHAPE = Shape(
    fields=("check", "verdict", "found", "advice"),
    columns=(
        Column(title="CHECK", fields=("check",)),
        Column(title="VERDICT", fields=("verdict",), is_status=True),
        Column(title="FOUND", fields=("found",), least=30, rank=1),
        Column(title="ADVICE", fields=("advice",)),
    ),
    id_field="check",
)
