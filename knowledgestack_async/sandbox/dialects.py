"""The four generations of the wire, as data."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from attrs import evolve, frozen

DialectName = Literal["documented", "offset", "system-jobs-unfiltered", "system-jobs"]
RunShape = Literal["status", "execution_state", "run_folders"]
FinishedCancel = Literal["conflict", "ignore"]

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
        coded: Whether errors carry a code and the request's id, and answers name that id too.
        rich: Whether items name the document and its uploader, lists take filters, and reruns go
            in bulk too.
        statuses: The pipeline statuses that it knows.
        run_shape: How it writes a run, if not told otherwise.
        owned: Whether a run that names who triggered it names its owner too.
        takes_superseded: Whether a single rerun of a superseded version is taken.
        cancel_finished: What cancelling what is finished comes to, if not told otherwise.
    """

    name: DialectName
    prefix: str
    paged: bool
    engine_field: str
    engine_details: bool
    coded: bool
    rich: bool
    statuses: frozenset[str]
    run_shape: RunShape
    owned: bool
    takes_superseded: bool
    cancel_finished: FinishedCancel


_DOCUMENTED = Dialect(
    name="documented",
    prefix="/v1/workflows",
    paged=True,
    engine_field="execution_status",
    engine_details=False,
    coded=False,
    rich=False,
    statuses=_STATUSES,
    run_shape="status",
    owned=False,
    takes_superseded=False,
    cancel_finished="conflict",
)
_OFFSET = evolve(
    _DOCUMENTED,
    name="offset",
    paged=False,
    engine_field="temporal_status",
    engine_details=True,
    statuses=_STATUSES | {"quota_limit"},
)
_UNFILTERED = evolve(
    _OFFSET,
    name="system-jobs-unfiltered",
    prefix="/v1/system-jobs",
    coded=True,
    run_shape="run_folders",
    takes_superseded=True,
    cancel_finished="ignore",
)
_SYSTEM_JOBS = evolve(
    _UNFILTERED,
    name="system-jobs",
    rich=True,
    owned=True,
    takes_superseded=False,
    cancel_finished="conflict",
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {dialect.name: dialect for dialect in (_DOCUMENTED, _OFFSET, _UNFILTERED, _SYSTEM_JOBS)}
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
