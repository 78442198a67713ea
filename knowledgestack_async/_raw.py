"""Calls of the user's own: an endpoint that the SDK doesn't model, under the same rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any, cast
from urllib.parse import quote, unquote, urlencode
from uuid import UUID

import attrs
from multidict import CIMultiDict

from ._checks import plain
from ._codec import decode_json, encode_json
from ._dialects import Dialect, Target
from ._wire import Answer, Call
from .errors import ConfigurationError

__all__ = ["RawResponse", "raw_call"]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


_METHODS = _SAFE_METHODS | {"POST", "PUT", "PATCH", "DELETE"}


@attrs.frozen(kw_only=True)
class RawResponse:
    """What ``Session.request`` gives: the status, the headers, and the body's JSON (None if empty).

    The headers' names are found in any case; one that came several times is there several times.
    """

    status: int
    headers: Mapping[str, str]
    json: Any


def _checked_path(path: object) -> str:
    if not isinstance(path, str):
        raise ConfigurationError(f"path must be a str, not {type(path).__name__}")
    path = plain(path)
    problem = ""
    if not path.startswith("/") or path.startswith("//"):
        problem = "must begin with one slash: it is a path below the base URL"
    elif any(not char.isprintable() or char in " \\?#" for char in path):
        problem = "must not hold spaces, control characters, backslashes, '?' or '#'"
    elif {".", ".."} & set(re.split(r"[/\\]", unquote(path))):
        problem = "must not hold '.' or '..'"
    if problem:
        raise ConfigurationError(f"path {path[:100]!r} {problem}")
    return quote(path, safe="/%:@!$&'()*+,;=~-._")


def _checked_query(params: object) -> str:
    if not isinstance(params, Mapping):
        raise ConfigurationError(f"params must be a mapping, not {type(params).__name__}")
    texts: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", params).items():
        text = _query_text(value)
        if not isinstance(name, str) or text is None:
            raise ConfigurationError(
                f"params must be texts, finite numbers or booleans by their names, not {name!r}: "
                f"{type(value).__name__}"
            )
        texts[plain(name)] = text
    with suppress(UnicodeEncodeError):
        return urlencode(texts)
    raise ConfigurationError("params have half a character in them (a lone surrogate)")


def _query_text(value: object) -> str | None:
    """A value of the query as a text; None if it can't be one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int):
        return int.__repr__(value)
    return float.__repr__(value) if isinstance(value, float) and isfinite(value) else None


def _checked_body(json: object) -> bytes:
    reason = ""
    try:
        return encode_json(json)
    except (TypeError, ValueError, OverflowError) as error:  # msgspec's own are of these
        reason = str(error)
    except RecursionError:
        reason = "it holds itself, or is nested too deeply"
    raise ConfigurationError(f"json can't be sent: {reason}")


def _read_raw(answer: Answer, _dialect: Dialect) -> RawResponse:
    json = decode_json(answer.body) if answer.body else None
    return RawResponse(status=answer.status, headers=CIMultiDict(answer.headers), json=json)


def _accepted_raw(answer: Answer) -> RawResponse:
    return RawResponse(status=answer.status, headers=CIMultiDict(answer.headers), json=None)


def raw_call(
    method: object, path: object, *, params: object, json: Any, idempotent: bool | None
) -> Call[RawResponse]:
    """The call, checked; see ``Session.request``.

    Raises:
        ConfigurationError: The path could leave the server, or the method is none, or so.
    """
    name = plain(method).upper() if isinstance(method, str) else ""
    if name not in _METHODS:
        raise ConfigurationError(f"method must be one of {', '.join(sorted(_METHODS))}")
    safe = name in _SAFE_METHODS
    target = Target(_checked_path(path), _checked_query(params))
    return Call(
        method=name,
        target=lambda _: target,
        read=_read_raw,
        accepted=None if safe else _accepted_raw,
        idempotent=safe if idempotent is None else idempotent,
        effect=not safe,
        body=None if json is None else _checked_body(json),
        own_connection=True,
    )
