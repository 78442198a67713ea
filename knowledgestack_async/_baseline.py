"""What an ingestion was like before a rerun."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .models import IngestionStatus

__all__ = ["Baseline"]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What an ingestion was like before the rerun, to tell the new run's outcome from the old one's."""

    status: str
    last_run_timestamp: datetime
    last_state_update_timestamp: datetime | None = None
    run_id: str | None = None
    document_version_id: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the run before was over."""
        return IngestionStatus(self.status).is_terminal
