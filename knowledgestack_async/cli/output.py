"""Printing records: as a table, JSON, NDJSON or ids, as they come."""

from __future__ import annotations

import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import NoneType, TracebackType, UnionType
from typing import Any, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

import attrs
import click

from .options import Options
from .screen import Screen
from .table import Column, Layout, Record, column_for, field_of, is_time, sheet
from .text import as_moment, flat, full_time

__all__ = ["Printer", "Shape", "View", "printer_for", "readable"]

View = Literal["table", "sheet", "lines"]

_PLAIN = (str, int, float, datetime)
_CONTROLS = re.compile("[\x7f-\x9f]")


@attrs.frozen(kw_only=True)
class Shape:
    """What records a command prints.

    Attributes:
        fields: The names of their fields.
        columns: What a table shows of them.
        id_field: The field that names one.
        kinds: The fields' types, as far as they are known.
    """

    fields: tuple[str, ...]
    columns: tuple[Column, ...]
    id_field: str
    kinds: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    @classmethod
    def of(cls, model: Any, *columns: Column, id_field: str = "workflow_id") -> Self:
        """The shape of a model's records."""
        names = tuple(field.name for field in attrs.fields(model))
        kinds = get_type_hints(model)
        return cls(fields=names, columns=columns, id_field=id_field, kinds=kinds)

    def find_wrong(self, field: str) -> tuple[str, ...] | None:
        """What there is in the place of a field that there isn't; None if it may be there."""
        first, *inside = field.split(".")
        if first not in self.fields:
            return self.fields
        kind = self.kinds.get(first, Any)
        for number, name in enumerate(inside, 1):
            known = _names_in(kind)
            if known is None:
                return None
            if name not in known:
                return tuple(".".join([first, *inside[: number - 1], one]) for one in known)
            kind = known[name]
        return None


def _names_in(kind: Any) -> dict[str, Any] | None:
    """The names inside of a value of a type, and their types; None if that can't be known."""
    kinds = [kind]
    if get_origin(kind) in {Union, UnionType}:
        kinds = [one for one in get_args(kind) if one is not NoneType]
    if len(kinds) == 1 and attrs.has(kinds[0]):
        hints = get_type_hints(kinds[0])
        names = [field.name for field in attrs.fields(kinds[0])]
        return {name: hints[name] for name in names if not name.startswith("_")}
    is_plain = all(isinstance(one, type) and issubclass(one, _PLAIN) for one in kinds)
    return {} if is_plain else None


class Printer(ABC):
    """Prints records one by one; on leaving its block what it still holds, or what ends the text.

    Args:
        screen: Where to.
        shape: What they are.
        fields: Which fields, if not all.
    """

    def __init__(self, screen: Screen, shape: Shape, fields: Sequence[str] = ()) -> None:
        self._screen = screen
        self._shape = shape
        self._fields = fields

    @abstractmethod
    def write(self, record: Record) -> None:
        """Print one."""

    def finish(self, *, is_whole: bool) -> None:  # noqa: B027 - most hold nothing back
        """Print what is left; ``is_whole`` tells whether all went well."""

    def _selected(self, record: Record) -> Record:
        if not self._fields:
            return record
        return {name: field_of(record, name) for name in self._fields}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(exc, BrokenPipeError):
            self.finish(is_whole=exc is None)


class _Ids(Printer):
    def write(self, record: Record) -> None:
        self._screen.out(str(record[self._shape.id_field]))


class _Lines(Printer):
    """NDJSON."""

    def write(self, record: Record) -> None:
        self._screen.out(_to_json(self._selected(record)))


class _One(Printer):
    """One JSON object."""

    def write(self, record: Record) -> None:
        self._screen.out(_to_json(self._selected(record), indent=2))


class _Array(Printer):
    """A JSON array, item by item; one that is cut short stays open, so that nobody takes it for whole."""

    _held: str | None = None

    def write(self, record: Record) -> None:
        self._screen.out("[" if self._held is None else f"{self._held},")
        text = _to_json(self._selected(record), indent=2).replace("\n", "\n  ")
        self._held = f"  {text}"

    def finish(self, *, is_whole: bool) -> None:
        if self._held is not None:
            self._screen.out(self._held)
        if is_whole:
            self._screen.out("[]" if self._held is None else "]")


class _Tabs(Printer):
    """A table in a pipe: nothing cut, tabs between, the fields' names on top."""

    _is_headed = False

    def write(self, record: Record) -> None:
        columns = self._shape.columns
        names = self._fields or [name for column in columns for name in column.fields]
        if not self._is_headed:
            self._screen.out("\t".join(names))
            self._is_headed = True
        self._screen.out("\t".join(flat(field_of(record, name)) for name in names))


class _Table(Printer):
    """A table on a terminal. The first rows decide how wide its columns are."""

    ROWS = 50

    def __init__(self, screen: Screen, shape: Shape, fields: Sequence[str] = ()) -> None:
        super().__init__(screen, shape, fields)
        self._columns: Sequence[Column] = shape.columns
        if fields:
            self._columns = [column_for(name, rank) for rank, name in enumerate(fields)]
        self._waiting: list[list[str]] = []
        self._layout: Layout | None = None

    def write(self, record: Record) -> None:
        self._waiting.append([column.text(record) for column in self._columns])
        if self._layout is not None or len(self._waiting) >= self.ROWS:
            self._print_waiting()

    def finish(self, *, is_whole: bool) -> None:  # noqa: ARG002
        self._print_waiting()

    def _print_waiting(self) -> None:
        if not self._waiting:
            return
        layout = self._layout or self._begin()
        for row in self._waiting:
            self._screen.out(layout.row(row, self._screen.style))
        self._waiting.clear()

    def _begin(self) -> Layout:
        keep_empty = bool(self._fields)
        layout = Layout(self._columns, self._waiting, self._screen.width, keep_empty=keep_empty)
        self._screen.out(self._screen.style(layout.header(), bold=True))
        self._layout = layout
        return layout


class _News(_Table):
    """Rows without a header, each printed at once: what happens one by one."""

    def __init__(
        self, screen: Screen, shape: Shape, fields: Sequence[str], ids: Sequence[str]
    ) -> None:
        super().__init__(screen, shape, fields)
        known = [
            "x" * max(map(len, ids), default=0)
            if shape.id_field in column.fields
            else "x" * column.typical
            for column in self._columns
        ]
        self._layout = Layout(self._columns, [known], screen.width)


class _Sheets(Printer):
    """Field by field."""

    _is_first = True

    def write(self, record: Record) -> None:
        if not self._is_first:
            self._screen.out("")
        self._is_first = False
        told = readable(self._selected(record))
        width = self._screen.width if self._screen.is_terminal else None
        for line in sheet(told, width):
            self._screen.out(line)


def readable(record: Record) -> dict[str, Any]:
    """The record as a person reads it: times on this machine's clock, numbers without their tails."""
    return {name: _readable(name, value) for name, value in record.items()}


def _readable(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return readable(cast("Record", value))
    if isinstance(value, float):
        return f"{value:,.1f}"
    moment = as_moment(value) if is_time(name.rpartition(".")[2]) else None
    return value if moment is None else full_time(moment)


def _to_json(record: Record, indent: int | None = None) -> str:
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(record, indent=indent, ensure_ascii=not is_unicode)
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def printer_for(
    options: Options,
    shape: Shape,
    view: View = "table",
    *,
    ids: Sequence[str] = (),
    single: bool = False,
) -> Printer:
    """What prints records as the options say.

    Args:
        options: What was asked of this run.
        shape: What the records are.
        view: What a table is here: ``lines`` come one by one, a ``sheet`` has a line a field.
        ids: The ids that lines will be about, as far as they are known.
        single: Whether there is one record, and not a list of them.

    Raises:
        click.UsageError: A field is none of the records'.
    """
    _check_fields(options, shape)
    screen, fields = options.screen, options.fields
    match options.output:
        case "ids":
            return _Ids(screen, shape)
        case "ndjson":
            return _Lines(screen, shape, fields)
        case "json":
            return (_One if single else _Array)(screen, shape, fields)
        case _:
            return _table_for(screen, shape, fields, view, ids)


def _table_for(
    screen: Screen, shape: Shape, fields: Sequence[str], view: View, ids: Sequence[str]
) -> Printer:
    if view == "sheet":
        return _Sheets(screen, shape, fields)
    if not screen.is_terminal:
        return _Tabs(screen, shape, fields)
    return _News(screen, shape, fields, ids) if view == "lines" else _Table(screen, shape, fields)


def _check_fields(options: Options, shape: Shape) -> None:
    if options.fields and options.output == "ids":
        raise click.UsageError("--fields doesn't go with --output ids, which prints ids only.")
    for field in options.fields:
        known = shape.find_wrong(field)
        if known is not None:
            there = f"there are {', '.join(known)}" if known else "it has no fields inside"
            raise click.UsageError(f"there is no field {field!r} here; {there}.")
