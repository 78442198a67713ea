"""Bytes to models and back: fast ways for what is read by the thousand, and the long way for the rest.

Values are never coerced: a number is not a text, 5.9 is not 5, and what is wrong is an error that
says where, such as ``$.items[3].status``. Only one thing is read into an answer: a time without a
zone is UTC.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property, partial
from itertools import repeat
from math import isfinite
from operator import attrgetter
from types import ModuleType
from typing import Any, TypeVar, cast, get_type_hints

import attrs
import msgspec

from . import models
from ._checks import plain
from .models import (
    PaginatedResponse,
    WireObject,
    WorkflowDetailResponse,
    WorkflowStatusResponse,
    WorkflowSummaryResponse,
)

__all__ = [
    "DecodeError",
    "decode_json",
    "decode_model",
    "decode_summary_page",
    "encode_json",
    "load_long_way",
    "pack_ending",
    "pack_summary",
    "release",
    "unpack_summary",
]

ModelT = TypeVar("ModelT", bound=WireObject)


class DecodeError(Exception):
    """The bytes are not JSON, or a value in them is of a wrong type; ``path`` says which."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path


MOST_OBJECTS = 100_000
"""How many objects and lists an answer may hold: of a small body they can take gigabytes."""
MOST_FIELDS = 200_000
MOST_VALUES = 500_000
SMALL = 2**19
"""Bodies up to this size can't hold enough of them to matter."""


def check_extent(body: bytes) -> None:
    """Make sure that a body doesn't hold so many values that reading it takes all memory.

    Raises:
        DecodeError: It does.
    """
    if len(body) <= SMALL:
        return
    objects = fields = values = 0
    for start in range(0, len(body), SMALL):  # so that a dense one is told soon
        piece = body[start : start + SMALL]
        objects += piece.count(b"{") + piece.count(b"[")
        fields += piece.count(b":")
        values += piece.count(b",")
        if objects > MOST_OBJECTS or fields > MOST_FIELDS or values > MOST_VALUES:
            raise DecodeError(
                f"the body holds more than {MOST_OBJECTS:,} objects and lists, "
                f"{MOST_FIELDS:,} fields or {MOST_VALUES:,} values"
            )


def decode_json(body: bytes) -> Any:
    """Strict JSON: UTF-8 without a byte order mark, no NaN, not empty, of a bounded extent."""
    check_extent(body)
    problem = ""
    try:
        return msgspec.json.decode(body.decode())
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:  # msgspec's own errors, and Python's limit on digits
        problem = str(error)
    raise DecodeError(f"the body is not JSON: {problem}")


def encode_json(value: object) -> bytes:
    """A request's body.

    Raises:
        ValueError: JSON has no word for something in it, such as NaN, or bytes.
        TypeError: It holds an object of an unknown kind.
    """
    return msgspec.json.encode(_as_json(value))


_NO_JSON = (bytes, bytearray, memoryview, Decimal)


def _as_json(value: Any) -> Any:
    """A value in JSON's own kinds; what msgspec would turn into something else is an error."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        named = cast("Mapping[Any, Any]", value).items()
        return {_as_name(name): _as_json(item) for name, item in named}
    if isinstance(value, list | tuple):
        return [*map(_as_json, cast("Iterable[Any]", value))]
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"JSON has no word for {value}")
    if isinstance(value, _NO_JSON):
        kind: type = type(cast("object", value))
        raise TypeError(f"JSON has no word for {kind.__name__}")
    if value is None or isinstance(value, int | float):
        return value
    built: Any = msgspec.to_builtins(value, builtin_types=_NO_JSON)
    return _as_json(built)


def _as_name(name: object) -> str | int:
    if isinstance(name, str):
        return plain(name)
    if isinstance(name, int) and not isinstance(name, bool):
        return name
    raise TypeError(f"a name in it is {name!r:.40}, and no text")


def decode_model(body: bytes, model: type[ModelT]) -> ModelT:
    """One model from a body, whichever generation of the API it comes from.

    Raises:
        DecodeError: The body is not JSON, or not such an object.
    """
    check_extent(body)
    shortcut = _SHORTCUTS.get(model)
    if shortcut is not None:
        try:
            made: ModelT = shortcut(body)
            body.decode()
        except (ValueError, RecursionError):
            pass  # the long way says what is wrong, or reads what is only unusual
        else:
            models.remember_raw(made, partial(_parse_again, body))
            return made
    return cast("ModelT", _structure(decode_json(body), model))


def decode_summary_page(body: bytes) -> PaginatedResponse[WorkflowSummaryResponse]:
    """A page of ingestions from a body, in any generation's envelope.

    Raises:
        DecodeError: The body is not JSON, or not such a page.
    """
    check_extent(body)
    # The hot path: msgspec decodes straight into the models, and what it can't take (a time without
    # a zone, a wrong type) goes the long way through cattrs, which reads it or says what is wrong.
    # A field that is missing costs msgspec an exception, so pages of the earlier generations go by
    # `_Unfinished`; a wrong guess costs only time. The rest is done for all items at once, in C:
    # `map` into a deque that keeps nothing.
    is_current = b'"document_name"' in body[:_FIRST_ITEM]
    try:
        page = (_CURRENT_PAGES if is_current else _EARLIER_PAGES).decode(body)
        if not body.isascii():
            body.decode()
    except (ValueError, RecursionError):
        slow: PaginatedResponse[WorkflowSummaryResponse] = _structure(
            decode_json(body), PaginatedResponse[WorkflowSummaryResponse]
        )
        return slow
    source = _PageSource(body)
    if not is_current:
        _for_all(_SET_CLASS, page.items, repeat(WorkflowSummaryResponse))
    _for_all(_SET_READER, page.items, repeat(source.read_item))
    source.item_ids = [*map(id, page.items)]
    uploaders = [*map(_UPLOADER, page.items)]
    if any(uploaders):
        _for_all(_SET_READER, filter(None, uploaders), repeat(source.read_uploader))
        source.uploader_ids = [*map(id, uploaders)]
    models.remember_raw(page, source.read)
    return cast("PaginatedResponse[WorkflowSummaryResponse]", page)


def pack_summary(made: WorkflowSummaryResponse) -> bytes:
    """An ingestion in a form that takes little memory, and no other part of the answer it came in."""
    is_detail = isinstance(made, WorkflowDetailResponse)
    return (b"D" if is_detail else b"S") + encode_json(made.raw)


def pack_ending(made: WorkflowSummaryResponse) -> bytes:
    """The same, of no more than what a run's end is told by."""
    return b"S" + encode_json({name: made.raw.get(name) for name in _ENDING})


def unpack_summary(packed: bytes) -> WorkflowSummaryResponse:
    """What was packed."""
    is_detail = packed[:1] == b"D"
    return decode_model(
        packed[1:], WorkflowDetailResponse if is_detail else WorkflowSummaryResponse
    )


def release(items: Sequence[WorkflowSummaryResponse], of: int) -> None:
    """Let go of the page that some items came on, where they are few of its items.

    Args:
        items: The items that are kept.
        of: How many items the page had.
    """
    if 4 * len(items) <= of:
        for item in items:
            models.remember_raw(item, partial(_parse_again, encode_json(item.raw)))


def _for_all(
    act: Callable[[Any, Any], object], objects: Iterable[Any], values: Iterable[Any]
) -> None:
    deque(map(act, objects, values), maxlen=0)


class _PageSource:
    """A page's bytes, parsed again only when somebody asks for ``raw`` or ``extra``.

    Its objects ask for themselves. Where they are in the page is told by their identities, which
    are theirs alone as long as they are there to ask.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.item_ids: list[int] = []
        self.uploader_ids: list[int] = []

    @cached_property
    def _parsed(self) -> Mapping[str, Any]:
        return _parse_again(self._body)

    def read(self) -> Mapping[str, Any]:
        return self._parsed

    def read_item(self, item: WireObject) -> Mapping[str, Any]:
        return self._read_at(self.item_ids.index(id(item)))

    def read_uploader(self, uploader: WireObject) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._read_at(self.uploader_ids.index(id(uploader)))["uploader"]
        return found

    def _read_at(self, place: int) -> Mapping[str, Any]:
        item: Mapping[str, Any] = self._parsed["items"][place]
        return item


def _parse_again(body: bytes) -> Mapping[str, Any]:
    """A body that was read before."""
    parsed: Mapping[str, Any]
    try:
        parsed = decode_json(body)
    except DecodeError:  # a field that was skipped holds a number beyond all bounds
        parsed = json.loads(body, parse_int=_read_number)
    return parsed


def _read_number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


_SET_CLASS: Callable[[Any, Any], None] = object.__dict__["__class__"].__set__
_SET_READER: Callable[[Any, Any], None] = WireObject.__dict__["_read_raw"].__set__
_UPLOADER = attrgetter("uploader")


class _Unfinished(WireObject):
    """An earlier generation's summary while it is being decoded: the same slots, not frozen yet.

    The fields that only the current generation sends are None from the start, which only a class that
    isn't frozen can do fast.
    """

    __slots__ = WorkflowSummaryResponse.__slots__
    __annotations__ = get_type_hints(WorkflowSummaryResponse, include_extras=True)
    __attrs_attrs__ = attrs.fields(WorkflowSummaryResponse)

    def __attrs_pre_init__(self) -> None:
        self.document_name = self.materialized_path = None
        self.is_active_version = self.uploader = None


def _structure(value: Any, model: Any) -> Any:
    problem: DecodeError
    long_way = load_long_way()
    try:
        return long_way.structure(value, model)
    except long_way.Misfit as error:
        problem = DecodeError(error.reason, error.path)
    raise problem


def load_long_way() -> ModuleType:
    """The module that reads what the fast decoders don't; cattrs takes as long to load as all of ours.

    So a session has it loaded when it is made, and importing the package hasn't.
    """
    from . import _structuring  # noqa: PLC0415

    return _structuring


class _Status(msgspec.Struct):
    """A workflow's status as any generation sends it: the engine's word goes by two names."""

    workflow_id: str
    start_time: models.AwareTime
    execution_status: models.WorkflowExecutionStatus | None = None
    temporal_status: models.WorkflowExecutionStatus | None = None
    close_time: models.AwareTime | None = None
    workflow_type: str | None = None
    task_queue: str | None = None
    run_id: str | None = None


def _read_status(body: bytes) -> WorkflowStatusResponse:
    sent = _STATUS_DECODER.decode(body)
    status = sent.temporal_status if sent.execution_status is None else sent.execution_status
    if status is None:
        raise ValueError("there is no status")
    return WorkflowStatusResponse(
        workflow_id=sent.workflow_id,
        execution_status=status,
        start_time=sent.start_time,
        close_time=sent.close_time,
        workflow_type=sent.workflow_type,
        task_queue=sent.task_queue,
        run_id=sent.run_id,
    )


_STATUS_DECODER = msgspec.json.Decoder(_Status)

# What is read ten thousand times; what they can't take goes the long way.
_SHORTCUTS: Mapping[type, Callable[[bytes], Any]] = {
    WorkflowStatusResponse: _read_status,
    models.WorkflowActionResponse: msgspec.json.Decoder(models.WorkflowActionResponse).decode,
    WorkflowSummaryResponse: msgspec.json.Decoder(WorkflowSummaryResponse).decode,
}

_ENDING = (
    *("workflow_id", "document_id", "document_version_id", "status", "error"),
    *("last_run_timestamp", "last_state_update_timestamp", "created_at"),
)
_FIRST_ITEM = 4096
_CURRENT_PAGES = msgspec.json.Decoder(PaginatedResponse[WorkflowSummaryResponse])
_EARLIER_PAGES = msgspec.json.Decoder(PaginatedResponse[_Unfinished])
