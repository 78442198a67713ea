"""How a bulk rerun is run."""

from __future__ import annotations

from typing import Any

import attrs

from ._checks import check_count, check_seconds, check_share
from ._journal import ItemState

__all__ = ["RerunSettings"]


@attrs.frozen(kw_only=True)
class RerunSettings:
    """How a job is run; see ``rerun_ingestions``."""

    wait: bool = False
    concurrency: int = 50
    max_in_flight: int | None = None
    rate: float | None = None
    canary: int = 0
    abort_over: float = 0.2
    resend_unknown: bool = False
    settle_after: float = 30.0

    def __attrs_post_init__(self) -> None:
        check_count(self.concurrency, "concurrency")
        if self.max_in_flight is not None:
            check_count(self.max_in_flight, "max_in_flight")
        if self.rate is not None:
            check_seconds(self.rate, "rate")
        if self.canary:
            check_count(self.canary, "canary")
        check_seconds(self.settle_after, "settle_after", or_zero=True)
        check_share(self.abort_over, "abort_over")

    @property
    def defining(self) -> dict[str, Any]:
        """What a job can't change when it is resumed; its pace it can."""
        return {"wait": self.wait, "canary": self.canary, "abort_over": self.abort_over}

    @property
    def follows(self) -> bool:
        """Whether workflows are followed to their end."""
        return self.wait or self.max_in_flight is not None or self.canary > 0

    def says_when_over(self, state: ItemState) -> bool:
        """Whether somebody will say when an item in that state is over."""
        if state is ItemState.UNKNOWN:
            return self.max_in_flight is not None
        return state is ItemState.ACCEPTED and self.follows
