"""What the sandbox remembers of what it was asked and of what that did."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
from attrs import asdict, evolve, frozen

EffectKind = Literal["rerun", "cancel", "delete_run", "callback"]


@frozen(kw_only=True)
class RecordedRequest:
    """A request as it arrived, and what became of it.

    Args:
        number: Its place in the order of arrival, from 1.
        at: When it arrived, on this process's monotonic clock, in seconds.
        method: Its method.
        path: Its path as it was sent, still quoted, without the query.
        route: The name of the route that it reached, such as ``get_workflow_run``, or
            ``no_route``.
        id: The workflow's or run's id in it, unquoted.
        query: Its query's names and values, in order.
        headers: Its headers; names in any case.
        body: Its body.
        status: The status that was sent; None while, or where, none was.
        fault: The kind of the fault that it met, if it met one.
    """

    number: int
    at: float
    method: str
    path: str
    route: str
    id: str | None
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    status: int | None = None
    fault: str | None = None


@frozen(kw_only=True)
class Effect:
    """Something that a request changed.

    Args:
        number: Its place in the order in which things changed, from 1.
        at: When, on this process's monotonic clock, in seconds.
        kind: What happened.
        id: The id of the workflow or run that it happened to.
        request_number: The request that did it.
        detail: More, such as the status that a callback set, or ``bulk``.
    """

    number: int
    at: float
    kind: EffectKind
    id: str
    request_number: int
    detail: str | None = None


class Recorder:
    """Keeps requests and effects, and writes them to a file if one is given."""

    def __init__(self, *, keep: bool = True) -> None:
        """Begin with nothing.

        Args:
            keep: Whether requests are kept; they are counted and effects are kept in any case.
        """
        self.effects: list[Effect] = []
        self.counts: Counter[str] = Counter()
        self.arrived = 0
        self._keep = keep
        self._requests: dict[int, RecordedRequest] = {}
        self._file: IO[bytes] | None = None

    def open(self, path: str) -> None:
        """Append one JSON line to a file for each request, effect and answer, flushed at once."""
        self._file = Path(path).open("ab")  # noqa: SIM115 - it stays open; `close` closes it

    def close(self) -> None:
        """Close the file, if one is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests that were kept, in the order of arrival."""
        return list(self._requests.values())

    def forget(self) -> None:
        """Drop all requests, effects and counts."""
        self._requests.clear()
        self.effects.clear()
        self.counts.clear()

    def arrive(self, request: RecordedRequest) -> None:
        """Note a request."""
        self.counts[request.route] += 1
        if self._keep:
            self._requests[request.number] = request
        if self._file is not None:
            known = ("number", "at", "method", "path", "route", "id", "fault")
            self._write({"type": "request", **{name: getattr(request, name) for name in known}})

    def answer(self, number: int, status: int | None) -> None:
        """Note how a request ended."""
        if number in self._requests:
            self._requests[number] = evolve(self._requests[number], status=status)
        self._write({"type": "answer", "number": number, "status": status})

    def effect(
        self, kind: EffectKind, resource_id: str, request_number: int, detail: str | None = None
    ) -> None:
        """Note an effect."""
        effect = Effect(
            number=len(self.effects) + 1,
            at=time.monotonic(),
            kind=kind,
            id=resource_id,
            request_number=request_number,
            detail=detail,
        )
        self.effects.append(effect)
        self._write({"type": "effect", **asdict(effect)})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(line) + b"\n")
            self._file.flush()
