"""Bytes to models and back: the one cattrs converter, and a fast way round it for pages of summaries.

Values are never coerced: a number is not a text, 5.9 is not 5, and what is wrong is an error that
says where, such as ``$.items[3].status``. Only one thing is read into an answer: a time without a
zone is UTC.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import count, repeat
from typing import Any, TypeVar, cast, get_args, get_origin

import cattrs
import cattrs.gen
import msgspec
from cattrs.preconf.msgspec import make_converter

from . import models
from .models import (
    OpenEnum,
    PaginatedResponse,
    WireObject,
    WorkflowStatusResponse,
    WorkflowSummaryResponse,
)

__all__ = ["DecodeError", "decode_json", "decode_model", "decode_summary_page", "encode_json"]

ModelT = TypeVar("ModelT", bound=WireObject)


class DecodeError(Exception):
    """The bytes are not JSON, or a value in them is of a wrong type; ``path`` says which."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path


def decode_json(body: bytes) -> Any:
    """Strict JSON: UTF-8 without a byte order mark, no NaN, not empty."""
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
    """A request's body."""
    return msgspec.json.encode(value)


def decode_model(body: bytes, model: type[ModelT]) -> ModelT:
    """One model from a body, whichever generation of the API it comes from.

    Raises:
        DecodeError: The body is not JSON, or not such an object.
    """
    shortcut = _SHORTCUTS.get(model)
    if shortcut is not None:
        try:
            made: ModelT = shortcut(body)
            body.decode()
        except (ValueError, RecursionError):
            pass  # the long way says what is wrong, or reads what is only unusual
        else:
            models.remember_raw(made, partial(decode_json, body))
            return made
    return cast("ModelT", _structure(decode_json(body), model))


def decode_summary_page(body: bytes) -> PaginatedResponse[WorkflowSummaryResponse]:
    """A page of ingestions from a body, in any generation's envelope.

    Raises:
        DecodeError: The body is not JSON, or not such a page.
    """
    # The hot path: msgspec decodes straight into the models, and what it can't take (a time without
    # a zone, a wrong type) goes the long way through cattrs, which reads it or says what is wrong.
    # `raw` is kept as a place in the page's bytes, and set in one sweep in C.
    try:
        page = _PAGE_DECODER.decode(body)
        body.decode()
    except (ValueError, RecursionError):
        slow: PaginatedResponse[WorkflowSummaryResponse] = _structure(
            decode_json(body), PaginatedResponse[WorkflowSummaryResponse]
        )
        return slow
    source = _PageSource(body)
    readers = map(partial, repeat(source.read_item), count())
    deque(map(_SET_READER, page.items, readers), maxlen=0)
    for place, item in enumerate(page.items):
        if item.uploader is not None:
            models.remember_raw(item.uploader, partial(source.read_uploader, place))
    models.remember_raw(page, source.read)
    return page


class _PageSource:
    """A page's bytes, parsed again only when somebody asks for ``raw`` or ``extra``."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        parsed: dict[str, Any]
        try:
            parsed = decode_json(self._body)
        except DecodeError:  # a field that was skipped holds a number beyond all bounds
            parsed = json.loads(self._body, parse_int=_read_number)
        return parsed

    def read(self) -> Mapping[str, Any]:
        return self._parsed

    def read_item(self, place: int) -> Mapping[str, Any]:
        item: Mapping[str, Any] = self._parsed["items"][place]
        return item

    def read_uploader(self, place: int) -> Mapping[str, Any]:
        uploader: Mapping[str, Any] = self.read_item(place)["uploader"]
        return uploader


def _read_number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


_SET_READER: Callable[[WireObject, Callable[[], Mapping[str, Any]]], None] = WireObject.__dict__[
    "_read_raw"
].__set__


def _structure(value: Any, model: Any) -> Any:
    problem: DecodeError
    try:
        return _CONVERTER.structure(value, model)
    except _WrongValue as error:
        problem = DecodeError(str(error), "$")
    except cattrs.BaseValidationError as error:
        path, reason = _first_fault(error)
        problem = DecodeError(reason, path)
    raise problem


class _WrongValue(Exception):
    """A value of a wrong type, or a field that is missing."""


def _first_fault(error: BaseException) -> tuple[str, str]:
    """The path to the first wrong value, walked down cattrs' groups by the notes that it leaves."""
    path = "$"
    while isinstance(error, cattrs.BaseValidationError):
        inner = error.exceptions[0]
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, cattrs.AttributeValidationNote):
                path += f".{note.name}"
            elif isinstance(note, cattrs.IterableValidationNote):
                path += f"[{note.index}]"
        error = inner
    return path, "the field is missing" if isinstance(error, KeyError) else str(error)


def _expect(kind: type | tuple[type, ...], words: str) -> Callable[[Any, Any], Any]:
    def check(value: Any, _: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise _WrongValue(f"expected {words}, got {_describe(value)}")
        return value

    return check


def _describe(value: Any) -> str:
    names: dict[Any, str] = {
        type(None): "null",
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a boolean",
    }
    return names.get(type(value), "a number")


def _read_time(value: Any, _: Any) -> datetime:
    text: str = _expect(str, "a time")(value, None)
    try:  # as the fast path does, which rounds what Python cuts: the same time reads the same in both
        return msgspec.convert(text, models.AwareTime)
    except msgspec.ValidationError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _WrongValue(f"expected an ISO 8601 time, got {text[:40]!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _read_enum(value: Any, kind: type[OpenEnum]) -> OpenEnum:
    return kind(_expect(str, "a text")(value, None))


def _read_tuple(kind: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    items: Any = list[get_args(kind)[0]]  # type: ignore[misc]

    def read(value: Any, _: Any) -> tuple[Any, ...]:
        _expect(list, "a list")(value, None)
        return tuple(_CONVERTER.structure(value, items))

    return read


def _read_object(kind: Any) -> Callable[[Any, Any], Any]:
    from_fields = cattrs.gen.make_dict_structure_fn(kind, _CONVERTER)
    adapt = _ADAPTERS.get(get_origin(kind) or kind)

    def read(value: Any, _: Any) -> Any:
        _expect(dict, "an object")(value, None)
        made = from_fields(adapt(value) if adapt else value, kind)
        models.remember_raw(made, lambda: value)
        return made

    return read


def _renamed(ours: str, theirs: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def adapt(wire: dict[str, Any]) -> dict[str, Any]:
        return {**wire, ours: wire[theirs]} if theirs in wire and ours not in wire else wire

    return adapt


def _adapt_run(wire: dict[str, Any]) -> dict[str, Any]:
    wire = _renamed("status", "execution_state")(wire)
    trigger = wire.get("triggered_by")
    if isinstance(trigger, dict) and "user_id" not in wire:
        return {**wire, "user_id": cast("dict[str, Any]", trigger).get("user_id")}
    return wire


# How the later generations say what the reference page says: see models.WIRE_ONLY_NAMES.
_ADAPTERS: Mapping[type, Callable[[dict[str, Any]], dict[str, Any]]] = {
    models.WorkflowDetailResponse: _renamed("execution_status", "temporal_status"),
    models.WorkflowStatusResponse: _renamed("execution_status", "temporal_status"),
    models.WorkflowRunResponse: _adapt_run,
}


def _is_tuple(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is tuple


def _is_model(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return isinstance(plain, type) and issubclass(plain, WireObject)


def _make_converter() -> cattrs.Converter:
    converter = make_converter()
    for kind, words in ((str, "a text"), (int, "a whole number"), (bool, "a boolean")):
        converter.register_structure_hook(kind, _expect(kind, words))
    converter.register_structure_hook(datetime, _read_time)
    converter.register_structure_hook(OpenEnum, _read_enum)
    converter.register_structure_hook_factory(_is_tuple, _read_tuple)
    converter.register_structure_hook_factory(_is_model, _read_object)
    return converter


_CONVERTER = _make_converter()


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
}

_PAGE_DECODER = msgspec.json.Decoder(PaginatedResponse[WorkflowSummaryResponse])
