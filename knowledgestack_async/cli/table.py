"""Columns that fit a terminal: ids are never cut, the others are shortened or dropped instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import attrs

from .text import ago, as_moment, cut, flat, pad, status_color, width_of, wrap

__all__ = ["Column", "Layout", "column_for", "field_of", "is_time", "sheet", "show_time"]

Record = Mapping[str, Any]

GAP = "  "


def show_time(value: Any) -> str:
    """A time of a record, as short as it goes."""
    moment = as_moment(value)
    return flat(value) if moment is None else ago(moment)


def show_plain(value: Any) -> str:
    """Any other value of a record."""
    return flat(value)


@attrs.frozen(kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        title: What it is headed.
        fields: The record's fields that it shows: the first one that isn't empty.
        show: How a value looks.
        least: Down to how many columns of the terminal it may be cut; None: never.
        rank: The higher, the sooner it is cut, and then dropped; 0: never dropped.
        typical: How wide it is where its values aren't known yet.
        is_status: Whether its words have colors.
    """

    title: str
    fields: tuple[str, ...]
    show: Callable[[Any], str] = show_plain
    least: int | None = None
    rank: int = 0
    typical: int = 10
    is_status: bool = False

    def text(self, record: Record) -> str:
        """What it shows of a record."""
        values = (field_of(record, name) for name in self.fields)
        return next((self.show(value) for value in values if value not in (None, "")), "")


def field_of(record: Record, name: str) -> Any:
    """A record's field; a name with dots reaches inside it."""
    value: Any = record
    for part in name.split("."):
        value = cast("Record", value).get(part) if isinstance(value, Mapping) else None
    return value


def is_time(field: str) -> bool:
    """Whether a field holds a time, by its name: a text may look like one by chance."""
    return field == "at" or field.endswith(("_at", "_time", "_timestamp"))


def column_for(field: str, rank: int) -> Column:
    """The column of a field that was asked for by its name."""
    is_id = field == "id" or field.endswith("_id")
    return Column(
        title=field.upper(),
        fields=(field,),
        show=show_time if is_time(field) else show_plain,
        least=None if is_id else 8,
        rank=rank,
        is_status=field.endswith("status"),
    )


class Layout:
    """The widths of columns, worked out once so that rows can be printed as they come.

    Args:
        columns: The columns.
        rows: The first rows, as texts; their widths decide.
        width: How wide the terminal is.
        keep_empty: Whether columns that have nothing to show stay.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        width: int,
        *,
        keep_empty: bool = False,
    ) -> None:
        self.columns = columns
        natural = [
            max((width_of(row[place]) for row in rows), default=column.typical)
            for place, column in enumerate(columns)
        ]
        shown = [place for place, wanted in enumerate(natural) if wanted or keep_empty]
        self.widths: dict[int, int] = _fit(columns, natural, shown, width)

    def header(self) -> str:
        """The titles."""
        return self._line([column.title for column in self.columns])

    def row(self, texts: Sequence[str], style: Callable[[str, str | None], str]) -> str:
        """One row, with colors where the words have them."""
        return self._line(texts, style)

    def _line(
        self, texts: Sequence[str], style: Callable[[str, str | None], str] | None = None
    ) -> str:
        cells: list[str] = []
        for place, width in self.widths.items():
            column = self.columns[place]
            text = texts[place] if column.least is None else cut(texts[place], width)
            cell = pad(text, width)
            if style is not None and column.is_status and text:
                cell = cell.replace(text, style(text, status_color(text)), 1)
            cells.append(cell)
        return GAP.join(cells).rstrip()


def _fit(
    columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int], width: int
) -> dict[int, int]:
    """The width of each column that is shown, by its place."""
    wanted = {place: max(natural[place], len(columns[place].title)) for place in shown}
    while True:
        widths = dict(wanted)
        room = width - sum(widths.values()) - len(GAP) * (len(widths) - 1)
        while room < 0 and (longest := _longest_to_cut(columns, widths)) is not None:
            widths[longest] -= 1
            room += 1
        first_to_go = max(widths, key=lambda place: columns[place].rank, default=None)
        if room >= 0 or first_to_go is None or not columns[first_to_go].rank:
            return _with_room(columns, widths, room)
        del wanted[first_to_go]


def _longest_to_cut(columns: Sequence[Column], widths: Mapping[int, int]) -> int | None:
    """The place of the widest column that may be cut further."""
    cuttable = [
        place
        for place, width in widths.items()
        if (least := columns[place].least) is not None and width > least
    ]
    return max(cuttable, key=lambda place: widths[place], default=None)


def _with_room(columns: Sequence[Column], widths: dict[int, int], room: int) -> dict[int, int]:
    """Later rows may be longer than the first ones: the last column takes what is left."""
    last = max(widths, default=None)
    if last is not None and room > 0 and columns[last].least is not None:
        widths[last] += room
    return widths


def sheet(record: Record, width: int | None, indent: str = "") -> list[str]:
    """A record field by field, without those that are empty.

    Args:
        record: The record.
        width: How wide lines may be; None: as wide as they come.
        indent: What each line begins with.
    """
    filled = {name: value for name, value in record.items() if value not in (None, "", [], {}, ())}
    room = max(map(len, filled), default=0) + 2
    lines: list[str] = []
    for name, value in filled.items():
        label = f"{indent}{name}:"
        if isinstance(value, Mapping):
            lines += [label, *sheet(cast("Record", value), width, f"{indent}  ")]
            continue
        line = label.ljust(len(indent) + room) + flat(value)
        lines += [line] if width is None else wrap(line, width, indent + " " * room)
    return lines
