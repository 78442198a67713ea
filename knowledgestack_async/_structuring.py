"""Parsed JSON to models, the long way: the one cattrs converter, for all models and generations.

What the fast decoders of ``_codec`` can't take comes here too, to be read or to be told what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast, get_args, get_origin

import cattrs
import cattrs.gen
import msgspec
from cattrs.preconf.msgspec import make_converter

from . import models
from .models import OpenEnum, WireObject

__all__ = ["Misfit", "structure"]


class Misfit(Exception):
    """A value is of a wrong type; ``path`` says which."""

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path


def structure(value: Any, model: Any) -> Any:
    """A model from parsed JSON.

    Raises:
        Misfit: It is not such an object.
    """
    problem: Misfit
    try:
        return _CONVERTER.structure(value, model)
    except _WrongValue as error:
        problem = Misfit(str(error), "$")
    except cattrs.BaseValidationError as error:
        path, reason = _first_fault(error)
        problem = Misfit(reason, path)
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


# pyright takes its arguments for those of ExceptionGroup alone.
_list_error: Callable[[str, list[Exception], Any], Exception] = cast(
    "Any", cattrs.IterableValidationError
)


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
    if moment.tzinfo:
        return moment
    try:
        return msgspec.convert(f"{text}Z", models.AwareTime)
    except msgspec.ValidationError:
        return moment.replace(tzinfo=UTC)


def _read_enum(value: Any, kind: type[OpenEnum]) -> OpenEnum:
    return kind(_expect(str, "a text")(value, None))


def _read_tuple(kind: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    item_kind: Any = get_args(kind)[0]

    def read(value: Any, _: Any) -> tuple[Any, ...]:
        made: list[Any] = []
        for place, item in enumerate(_expect(list, "a list")(value, None)):
            try:
                made.append(_CONVERTER.structure(item, item_kind))
            except (_WrongValue, cattrs.BaseValidationError) as error:
                # The first one is enough: of very many, cattrs would keep an error for each.
                note = cattrs.IterableValidationNote(f"[{place}]", place, item_kind)
                error.add_note(note)
                raise _list_error("", [error], kind) from None
        return tuple(made)

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
        return {**wire, ours: wire[theirs]} if theirs in wire and wire.get(ours) is None else wire

    return adapt


def _adapt_run(wire: dict[str, Any]) -> dict[str, Any]:
    wire = _renamed("status", "execution_state")(wire)
    trigger = wire.get("triggered_by")
    if isinstance(trigger, dict) and wire.get("user_id") is None:
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
