"""What a list of ingestions can be filtered by: here where the server can't, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self, cast
from uuid import UUID

import msgspec

from ._checks import plain
from ._dialects import Dialect
from .errors import ConfigurationError
from .models import IngestionStatus, WorkflowSummaryResponse

__all__ = ["ListFilters"]

_TYPES = {"name_like": str, "latest_version_only": bool, "oldest_first": bool}


class ListFilters(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of one walk; false if there are none.

    ``statuses`` and the times are applied to the items here, in every generation: a server may ignore
    what it claims to know. The others need a server that has them.
    """

    statuses: frozenset[str] = frozenset()
    name_like: str | None = None
    latest_version_only: bool | None = None
    uploader_user_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None
    oldest_first: bool = False

    @classmethod
    def checked(
        cls,
        *,
        status: str | IngestionStatus | Iterable[str | IngestionStatus] | None = None,
        uploader_user_id: str | UUID | None = None,
        **others: Any,
    ) -> Self:
        """The filters from a user's arguments.

        Raises:
            ConfigurationError: One of them is wrong.
        """
        for name, value in others.items():
            if isinstance(value, str):
                others[name] = plain(value)
            if isinstance(value, datetime):
                _check_time(value, name)
            if name.endswith(("_after", "_before")) and not isinstance(value, datetime | None):
                raise ConfigurationError(f"{name} must be a datetime, not {type(value).__name__}")
            if name in _TYPES and not isinstance(value, _TYPES[name] | None):
                wanted = _TYPES[name].__name__
                raise ConfigurationError(f"{name} must be a {wanted}, not {type(value).__name__}")
        return cls(
            statuses=_checked_statuses(status),
            uploader_user_id=_checked_uploader(uploader_user_id),
            **others,
        )

    def __bool__(self) -> bool:
        return self != type(self)()

    def wire(self) -> dict[str, Any]:
        """The filters by their names, as a dialect takes them."""
        named: dict[str, Any] = {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if name != "statuses" and value not in {None, False}
        }
        return named | ({"status": self.statuses} if self.statuses else {})

    def check_honoured(self, dialect: Dialect) -> None:
        """Make sure that nothing that was asked for is silently ignored.

        Raises:
            ConfigurationError: The server has no such filter, and items don't tell.
        """
        asked = self.wire()
        for name in ("name_like", "latest_version_only", "uploader_user_id"):
            if name in asked and name not in dialect.filters:
                raise ConfigurationError(
                    f"{name} can't be honoured: a server of the generation {dialect.name!r} has no "
                    "such filter, and its items don't tell"
                )
        if self.oldest_first and dialect.newest_last is None:
            raise ConfigurationError(
                f"oldest_first can't be honoured: a server of the generation {dialect.name!r} gives "
                "the newest first only"
            )

    def keeps(self, item: WorkflowSummaryResponse) -> bool:
        """Whether an item passes the filters that its own fields tell, also where the server has them."""
        updated = item.last_state_update_timestamp or item.created_at
        return (
            (not self.statuses or str(item.status) in self.statuses)
            and _is_since(item.created_at, self.created_after)
            and _is_before(item.created_at, self.created_before)
            and _is_since(updated, self.updated_after)
            and _is_before(updated, self.updated_before)
        )


def _check_time(moment: datetime, name: str) -> None:
    if moment.tzinfo is None:
        raise ConfigurationError(f"{name} must have a time zone; UTC is datetime.UTC")
    with suppress(OverflowError):
        moment.astimezone(UTC)
        return
    raise ConfigurationError(f"{name} must be a time that there is in UTC, too; not {moment!s}")


def _is_since(moment: datetime, start: datetime | None) -> bool:
    return start is None or moment >= start


def _is_before(moment: datetime, end: datetime | None) -> bool:
    return end is None or moment < end


def _checked_statuses(status: object) -> frozenset[str]:
    if status is None:
        return frozenset()
    given = [status] if isinstance(status, str) else status
    problem = "status must name at least one status, such as 'failed'"
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise ConfigurationError(problem)
    words = [*cast("Iterable[object]", given)]
    texts = [plain(word) for word in words if isinstance(word, str) and word]
    if not texts or len(texts) != len(words):
        raise ConfigurationError(problem)
    return frozenset(texts)


def _checked_uploader(uploader: object) -> str | None:
    if isinstance(uploader, str):
        return plain(uploader)
    if isinstance(uploader, UUID):
        return str(uploader)
    if uploader is None:
        return None
    raise ConfigurationError(f"uploader_user_id must be a str or UUID, not {uploader!r}")
