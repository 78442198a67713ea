"""The three generations of the wire, as data."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from attrs import frozen

DialectName = Literal["documented", "offset", "system-jobs"]
RunShape = Literal["status", "execution_state", "run_folders"]

_STATUSES = frozenset({"pending", "processing", "completed", "failed", "cancelled"})


@frozen(kw_only=True)
class Dialect:
    """What sets one generation of the server apart.

    Args:
        name: Its name.
        prefix: Where the ingestion and workflow routes live.
        paged: Whether lists take ``page`` and ``page_size`` rather than ``limit`` and ``offset``.
        engine_field: The name of the live status.
        engine_details: Whether the live status comes with the engine's further fields.
        rich: Whether items name the document and its uploader, lists take filters, errors carry
            codes, and reruns go in bulk too.
        statuses: The pipeline statuses that it knows.
        run_shape: How it writes a run, if not told otherwise.
    """

    name: DialectName
    prefix: str
    paged: bool
    engine_field: str
    engine_details: bool
    rich: bool
    statuses: frozenset[str]
    run_shape: RunShape


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "documented": Dialect(
            name="documented",
            prefix="/v1/workflows",
            paged=True,
            engine_field="execution_status",
            engine_details=False,
            rich=False,
            statuses=_STATUSES,
            run_shape="status",
        ),
        "offset": Dialect(
            name="offset",
            prefix="/v1/workflows",
            paged=False,
            engine_field="temporal_status",
            engine_details=True,
            rich=False,
            statuses=_STATUSES | {"quota_limit"},
            run_shape="status",
        ),
        "system-jobs": Dialect(
            name="system-jobs",
            prefix="/v1/system-jobs",
            paged=False,
            engine_field="temporal_status",
            engine_details=True,
            rich=True,
            statuses=_STATUSES | {"quota_limit"},
            run_shape="run_folders",
        ),
    }
)


def find_dialect(name: str) -> Dialect:
    """Return a generation by its name.

    Raises:
        ValueError: There is none of this name.
    """
    try:
        return DIALECTS[name]
    except KeyError:
        raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, not {name!r}") from None
