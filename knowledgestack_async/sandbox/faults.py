"""What can be made to go wrong, when, and how often: drawn from the seed, so it can be repeated."""

import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from random import Random
from types import MappingProxyType
from typing import Any, Literal

from attrs import define, field, fields_dict, frozen

from knowledgestack_async.sandbox.garbage import GARBAGE
from knowledgestack_async.sandbox.rate import Rate
from knowledgestack_async.sandbox.recording import RecordedRequest

FaultKind = Literal[
    "latency",
    "status",
    "rate-limit",
    "page",
    "reset",
    "close",
    "truncate",
    "garbage",
    "silence",
    "slow",
    "stall_body",
    "banner",
    "raw",
    "informational",
    "redirect",
    "unsolicited",
    "cookie",
]

_WHERE = frozenset({"kind", "route", "method", "id", "probability", "times", "after"})
_PARAMETERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "latency": frozenset({"seconds"}),
        "status": frozenset({"status", "body", "headers", "code", "retry_after", "effect"}),
        "rate-limit": frozenset({"per_second", "retry_after"}),
        "page": frozenset({"status", "body", "headers", "content_type", "effect"}),
        "reset": frozenset({"when", "effect_delay"}),
        "close": frozenset({"when", "effect_delay"}),
        "truncate": frozenset({"how"}),
        "garbage": frozenset({"body", "content_type", "headers", "status"}),
        "silence": frozenset({"effect"}),
        "slow": frozenset({"seconds"}),
        "stall_body": frozenset(),
        "banner": frozenset({"body", "effect"}),
        "raw": frozenset({"body", "effect"}),
        "informational": frozenset({"status", "count"}),
        "redirect": frozenset({"status", "location", "effect"}),
        "unsolicited": frozenset({"body", "seconds"}),
        "cookie": frozenset({"cookie"}),
    }
)
_NEEDED = (
    ("status", "status"),
    ("latency", "seconds"),
    ("raw", "body"),
    ("rate-limit", "per_second"),
)


@frozen
class Fault:
    """Something that goes wrong with an answer.

    The kinds, and what each of them takes:

    - ``latency``: the answer comes `seconds` later; combines with any other fault.
    - ``status``: another `status` with a `body` (an object, text or bytes; by default the error
      that goes with it), `headers`, error `code` and `retry_after` (seconds or a date).
    - ``rate-limit``: of the requests that match, `per_second` are taken in any second of the
      sandbox's clock; the rest get a 429, with `retry_after` (seconds or a date) if it is given.
      In a script, it refuses the request.
    - ``page``: another server's page in place of the service's answer: with `status` 200 (the
      default) a login page, with another one a proxy's error page, or a `body` of your own (text
      or bytes), such as ``default backend - 404``. It is HTML, or plain text where the body begins
      with no tag; `content_type` and `headers` as told.
    - ``reset``: the connection is reset, `when` is ``before`` the effect or ``after`` it; with
      `effect_delay` the effect follows that many seconds after the reset.
    - ``close``: the connection is closed in an orderly way, without an answer; as ``reset``.
    - ``truncate``: the answer is cut `how`: before its announced ``length``, inside a ``chunk``,
      or inside a ``header``.
    - ``garbage``: a `status` (200) with any `body`: bytes, an object, or the name of one of the
      presets ``html`` (the default), ``empty``, ``bom``, ``charset``, ``not-utf-8``, ``nan``,
      ``digits``, ``nesting``, ``control-characters``, ``gzip-bomb`` and ``not-gzip``;
      `content_type` and `headers` as told.
    - ``silence``: no answer at all, until the client goes or the sandbox closes.
    - ``slow``: the head comes byte by byte, one every `seconds` (0.05).
    - ``stall_body``: the head and half the body, then silence.
    - ``banner``: the greeting of another protocol (`body`) in place of an answer.
    - ``raw``: these bytes (`body`) in place of an answer, then the connection is closed.
    - ``informational``: `count` answers with a `status` (102) before the true one; None: endless.
    - ``redirect``: a `status` (302) to a `location`.
    - ``unsolicited``: a second answer with `body` on the same connection, right behind the first
      one or `seconds` after it.
    - ``cookie``: the true answer sets the `cookie`.

    Args:
        kind: What goes wrong.
        route: The route's name, such as ``list_ingestion_workflows``, or a pattern with ``*``.
        method: Only requests with this method.
        id: Only requests with this workflow or run.
        probability: How likely it happens to a request that matches.
        times: How often it happens at most; None means no limit.
        after: How many matching requests are spared first.
        effect: Whether the request takes effect although ``status``, ``page``, ``silence``,
            ``banner``, ``raw`` or ``redirect`` hides it; by default it doesn't. What ``rate-limit``
            refuses never does. With the other kinds it does, ``reset`` and ``close`` as told by
            `when`.

    Raises:
        ValueError: The kind is unknown, or it doesn't take what it was given.
    """

    kind: FaultKind
    route: str = field(default="*", kw_only=True)
    method: str | None = field(default=None, kw_only=True)
    id: str | None = field(default=None, kw_only=True)
    probability: float = field(default=1.0, kw_only=True)
    times: int | None = field(default=None, kw_only=True)
    after: int = field(default=0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    status: int | None = field(default=None, kw_only=True)
    body: Mapping[str, Any] | str | bytes | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] | None = field(default=None, kw_only=True)
    code: str | None = field(default=None, kw_only=True)
    retry_after: float | str | None = field(default=None, kw_only=True)
    per_second: float | None = field(default=None, kw_only=True)
    when: Literal["before", "after"] | None = field(default=None, kw_only=True)
    effect_delay: float | None = field(default=None, kw_only=True)
    how: Literal["length", "chunk", "header"] | None = field(default=None, kw_only=True)
    content_type: str | None = field(default=None, kw_only=True)
    count: int | None = field(default=None, kw_only=True)
    location: str | None = field(default=None, kw_only=True)
    cookie: str | None = field(default=None, kw_only=True)
    effect: bool | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.kind not in _PARAMETERS:
            raise ValueError(f"kind must be one of {', '.join(_PARAMETERS)}, not {self.kind!r}")
        given = {name for name in fields_dict(Fault) if getattr(self, name) is not None}
        surplus = given - _WHERE - _PARAMETERS[self.kind]
        if surplus:
            raise ValueError(f"a {self.kind} fault takes no {', '.join(sorted(surplus))}")
        for kind, needed in _NEEDED:
            if self.kind == kind and getattr(self, needed) is None:
                raise ValueError(f"a {kind} fault needs {needed}")
        if self.kind == "garbage" and isinstance(self.body, str) and self.body not in GARBAGE:
            raise ValueError(f"garbage is bytes, or one of {', '.join(GARBAGE)}")
        if self.kind == "page" and isinstance(self.body, Mapping):
            raise ValueError("a page is text or bytes")
        if self.per_second is not None and not 0 < self.per_second < inf:
            raise ValueError(f"per_second must be positive and finite, not {self.per_second}")

    @property
    def acts_first(self) -> bool:
        """Whether the request takes effect unseen, before this happens."""
        if self.kind in {"reset", "close"}:
            return self.when == "after" and self.effect_delay is None
        return bool(self.effect)

    def matches(self, request: RecordedRequest) -> bool:
        """Tell whether a request is of the sort that this fault is for."""
        return (
            fnmatchcase(request.route, self.route)
            and self.method in {None, request.method}
            and self.id in {None, request.id}
        )


@define(eq=False)
class FaultHandle:
    """A fault in force.

    Args:
        fault: Which.
        matched: How many requests were of its sort.
        fired: To how many of them it happened.
    """

    fault: Fault
    _draws: Random
    _owner: "Faults"
    _now: Callable[[], float]
    matched: int = field(init=False, default=0)
    fired: int = field(init=False, default=0)
    _rate: Rate | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        if self.fault.per_second is not None:
            self._rate = Rate(self.fault.per_second)

    def remove(self) -> None:
        """Let it happen no more."""
        self._owner.remove(self)

    def fires(self, request: RecordedRequest) -> bool:
        """Tell whether it happens to this request, and count."""
        fault = self.fault
        if not fault.matches(request):
            return False
        self.matched += 1
        if self.matched <= fault.after or self.fired == fault.times:
            return False
        if self._rate is not None and self._rate.takes(self._now()):
            return False
        if fault.probability < 1 and self._draws.random() >= fault.probability:
            return False
        self.fired += 1
        return True


class Faults:
    """All faults in force.

    Of those that match a request, the first that fires happens, and every latency besides. While
    a route has a script, that alone decides.
    """

    def __init__(self, seed: int = 0, now: Callable[[], float] = time.monotonic) -> None:
        """Begin without any.

        Args:
            seed: What the draws derive from.
            now: The time in seconds, by which a rate is limited.
        """
        self._seed = seed
        self._now = now
        self._handles: list[FaultHandle] = []
        self._scripts: dict[str, list[Fault | None]] = {}
        self._added = 0

    def __bool__(self) -> bool:
        return bool(self._handles or self._scripts)

    def add(self, fault: Fault) -> FaultHandle:
        """Put a fault in force.

        Returns:
            What counts how often it happened, and ends it.
        """
        self._added += 1
        handle = FaultHandle(fault, Random(f"{self._seed}:fault:{self._added}"), self, self._now)
        self._handles.append(handle)
        return handle

    def remove(self, handle: FaultHandle) -> None:
        """End one fault, if it is still in force."""
        if handle in self._handles:
            self._handles.remove(handle)

    def script(self, route: str, faults: Sequence[Fault | None]) -> None:
        """Say what happens to the next requests to a route, one after the other.

        Args:
            route: Its name.
            faults: One for each request; None lets that one pass.
        """
        self._scripts.setdefault(route, []).extend(faults)

    def clear(self) -> None:
        """End all faults and scripts."""
        self._handles.clear()
        self._scripts.clear()

    def draw(self, request: RecordedRequest) -> tuple[Fault | None, float]:
        """Decide what happens to a request.

        Returns:
            The fault, if any, and the latency in seconds.
        """
        script = self._scripts.get(request.route)
        if script:
            fault = script.pop(0)
            if fault is not None and fault.kind == "latency":
                return None, fault.seconds or 0.0
            return fault, 0.0
        chosen: Fault | None = None
        latency = 0.0
        for handle in self._handles:
            if handle.fault.kind == "latency":
                latency += (handle.fault.seconds or 0.0) if handle.fires(request) else 0.0
            elif chosen is None and handle.fires(request):
                chosen = handle.fault
        return chosen, latency
