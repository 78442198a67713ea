"""The four generations of the API as data, and how an answer tells which one spoke."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlencode

import msgspec

from .errors import ConfigurationError
from .models import PaginatedResponse, WorkflowSummaryResponse

__all__ = [
    "GENERATIONS",
    "Dialect",
    "Paging",
    "Route",
    "Target",
    "as_utc",
    "dialect_named",
    "spoken_dialect",
    "window_of",
]


class Route(StrEnum):
    """What a path leads to; the same in all generations."""

    LIST_INGESTIONS = "list_ingestions"
    INGESTION = "ingestion"
    BULK_RERUN = "bulk_rerun"
    WORKFLOW = "workflow"
    RUN = "run"
    RUN_CALLBACK = "run_callback"


class Target(msgspec.Struct, frozen=True):
    """Where a request goes: a path below the base URL, and the query."""

    path: str
    query: str = ""


class Paging(msgspec.Struct, frozen=True):
    """How a list is asked for a window of itself.

    Attributes:
        place: The query's name for where the window begins.
        size: The query's name for how many items it holds.
        by_number: Whether places are page numbers, from 1, so that a window begins at a multiple of
            its size; else they count items.
    """

    place: str
    size: str
    by_number: bool

    def query(self, start: int, size: int) -> str:
        """The window that begins at ``start``, or at the last multiple of its size before it."""
        place = start // size + 1 if self.by_number else start
        return f"{self.place}={place}&{self.size}={size}"


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of the API.

    Attributes:
        name: What users call it.
        paths: Where each route is; ``{id}`` stands for the id.
        paging: How a list is asked for a window.
        filters: What a list can be filtered by: our name, and the query's.
        newest_last: The query that turns the order round, where the server can.
        bulk_limit: How many document versions one bulk rerun takes; None where there is none.
        largest_window: How many items a window may hold.
        names_documents: Whether the list's items carry their document's name, path and uploader.
    """

    name: str
    paths: Mapping[Route, str]
    paging: Paging
    filters: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    newest_last: tuple[str, str] | None = None
    bulk_limit: int | None = None
    largest_window: int = 100
    names_documents: bool = False

    def list_target(self, start: int, size: int, filters: Mapping[str, Any]) -> Target:
        """The list's window, with the filters that this generation knows (the rest is the caller's)."""
        query = self.paging.query(start, size)
        if filters:
            query += _filter_query(self.name, tuple(filters.items()))
        return Target(self.paths[Route.LIST_INGESTIONS], query)


def as_utc(moment: datetime) -> datetime:
    """A time in UTC; at the ends of the calendar, where there is none, the nearest that there is."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return moment.replace(tzinfo=UTC)


def _query_texts(value: Any) -> list[str]:
    if isinstance(value, frozenset):
        return sorted(map(str, cast("frozenset[str]", value)))
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, datetime):
        return [as_utc(value).isoformat()]
    return [str(value)]


_RUN_PATHS = {
    Route.RUN: "/v1/workflow-runs/{id}",
    Route.RUN_CALLBACK: "/v1/workflow-runs/{id}/callback",
}


def _workflow_paths(prefix: str) -> dict[Route, str]:
    return {
        Route.LIST_INGESTIONS: f"{prefix}/document_versions",
        Route.INGESTION: f"{prefix}/document_versions/{{id}}",
        Route.WORKFLOW: f"{prefix}/{{id}}",
        **_RUN_PATHS,
    }


_BY_NUMBER = Paging(place="page", size="page_size", by_number=True)
_BY_OFFSET = Paging(place="offset", size="limit", by_number=False)

GENERATIONS = (
    Dialect(name="documented", paths=_workflow_paths("/v1/workflows"), paging=_BY_NUMBER),
    Dialect(name="offset", paths=_workflow_paths("/v1/workflows"), paging=_BY_OFFSET),
    Dialect(
        name="system-jobs-unfiltered", paths=_workflow_paths("/v1/system-jobs"), paging=_BY_OFFSET
    ),
    Dialect(
        name="system-jobs",
        paths={
            **_workflow_paths("/v1/system-jobs"),
            Route.BULK_RERUN: "/v1/system-jobs/document_versions/bulk-rerun",
        },
        paging=_BY_OFFSET,
        filters={
            name: name
            for name in (
                "status",
                "name_like",
                "latest_version_only",
                "uploader_user_id",
                "created_after",
                "created_before",
                "updated_after",
                "updated_before",
            )
        },
        newest_last=("sort_dir", "ASC"),
        bulk_limit=200,
        names_documents=True,
    ),
)
"""From the oldest on. Of two that only their items tell apart, the one that can less comes first."""


def dialect_named(name: object) -> Dialect:
    """The dialect of that name.

    Raises:
        ConfigurationError: There is none.
    """
    for dialect in GENERATIONS:
        if dialect.name == name:
            return dialect
    known = ", ".join(repr(dialect.name) for dialect in GENERATIONS)
    raise ConfigurationError(f"dialect must be 'auto', {known}; not {name!r}")


@lru_cache(maxsize=64)
def _filter_query(name: str, filters: tuple[tuple[str, Any], ...]) -> str:
    """What follows the window in a query; a walk asks for the same again and again."""
    dialect = dialect_named(name)
    query: list[tuple[str, str]] = []
    for filter_name, value in filters:
        if filter_name == "oldest_first":
            query += [dialect.newest_last] if value and dialect.newest_last else []
        elif filter_name in dialect.filters:
            query += [(dialect.filters[filter_name], text) for text in _query_texts(value)]
    return f"&{urlencode(query)}" if query else ""


def window_of(page: PaginatedResponse[Any]) -> tuple[int, int, bool] | None:
    """Where a page begins, how many items it may hold, and whether it is a numbered one.

    None for an envelope that says neither, or nonsense.
    """
    if page.limit is not None and page.offset is not None:
        sound = page.limit > 0 and page.offset >= 0
        return (page.offset, page.limit, False) if sound else None
    if page.page is not None and page.page_size is not None:
        sound = page.page > 0 and page.page_size > 0
        return ((page.page - 1) * page.page_size, page.page_size, True) if sound else None
    return None


def spoken_dialect(
    asked: Dialect, page: PaginatedResponse[WorkflowSummaryResponse], known: Dialect
) -> Dialect:
    """The generation that answered: the path is its own, and it pages and fills items as it does.

    Args:
        asked: The generation whose path was asked.
        page: What it answered.
        known: The one that it was taken for so far; a page without items doesn't refute it.
    """
    path, by_number = asked.paths[Route.LIST_INGESTIONS], page.offset is None
    spoken = [
        dialect
        for dialect in GENERATIONS
        if dialect.paths[Route.LIST_INGESTIONS] == path and dialect.paging.by_number == by_number
    ]
    if len(spoken) > 1 and page.items:
        names_documents = any(map(_names_document, page.items))
        spoken = [dialect for dialect in spoken if dialect.names_documents == names_documents]
    if not spoken:
        return asked
    return known if known in spoken else spoken[0]


def _names_document(item: WorkflowSummaryResponse) -> bool:
    return item.document_name is not None or item.is_active_version is not None
