"""Validation as a FastAPI service does it: each problem says where it is and what is wrong."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from knowledgestack_async.sandbox.records import Filters, to_moment

MAX_ERROR_LENGTH = 8192
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


class InvalidRequestError(Exception):
    """A request doesn't fit what the route takes."""

    def __init__(self, problems: Sequence[Mapping[str, Any]]) -> None:
        """Say what is wrong.

        Args:
            problems: Each with its ``loc``, ``msg`` and ``type``.
        """
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


class Query:
    """Reads a query's parameters and collects what is wrong with them."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Take the parameters.

        Args:
            pairs: Names and values, in order; of a name that is there twice the last counts.
        """
        self._pairs = pairs
        self._values = dict(pairs)
        self._problems: list[Mapping[str, Any]] = []

    def integer(self, name: str, default: int, *, low: int, high: int | None = None) -> int:
        """Read a whole number."""
        text = self._values.get(name)
        if text is None:
            return default
        if not _INTEGER.fullmatch(text):
            self._complain(name, "int_parsing", "Input should be a valid integer")
            return default
        number = int(text)
        if number < low:
            message = f"Input should be greater than or equal to {low}"
            self._complain(name, "greater_than_equal", message)
        elif high is not None and number > high:
            self._complain(name, "less_than_equal", f"Input should be less than or equal to {high}")
        return number

    def boolean(self, name: str) -> bool:
        """Read a truth value, by default False."""
        text = self._values.get(name, "false").lower()
        if text not in _TRUE | _FALSE:
            self._complain(name, "bool_parsing", "Input should be a valid boolean")
        return text in _TRUE

    def moment(self, name: str) -> int | None:
        """Read a time, as microseconds since 1970."""
        text = self._values.get(name)
        try:
            return None if text is None else to_moment(datetime.fromisoformat(text))
        except ValueError:
            self._complain(name, "datetime_from_date_parsing", "Input should be a valid datetime")
            return None

    def uuid(self, name: str) -> str | None:
        """Read a UUID, in its usual spelling."""
        text = self._values.get(name)
        try:
            return None if text is None else str(UUID(text))
        except ValueError:
            self._complain(name, "uuid_parsing", "Input should be a valid UUID")
            return None

    def text(self, name: str) -> str | None:
        """Read a text."""
        return self._values.get(name)

    def words(self, name: str, known: frozenset[str]) -> frozenset[str]:
        """Read a parameter that can be there several times, each with one of some words."""
        words = [value for key, value in self._pairs if key == name]
        for place, word in enumerate(words):
            if word not in known:
                allowed = ", ".join(sorted(known))
                self._complain(name, "enum", f"Input should be one of {allowed}", place)
        return frozenset(words)

    def check(self) -> None:
        """Raise what was found.

        Raises:
            InvalidRequestError: Something was wrong.
        """
        if self._problems:
            raise InvalidRequestError(self._problems)

    def _complain(self, name: str, kind: str, message: str, *place: int) -> None:
        self._problems.append(_problem(("query", name, *place), kind, message))


def read_filters(query: Query, statuses: frozenset[str]) -> tuple[Filters, bool]:
    """Read what a list is narrowed to, and whether the oldest comes first."""
    filters = Filters(
        statuses=query.words("status", statuses),
        name_like=query.text("name_like"),
        latest_version_only=query.boolean("latest_version_only"),
        uploader_user_id=query.uuid("uploader_user_id"),
        created_after=query.moment("created_after"),
        created_before=query.moment("created_before"),
        updated_after=query.moment("updated_after"),
        updated_before=query.moment("updated_before"),
    )
    directions = query.words("sort_dir", frozenset({"ASC", "DESC"}))
    return filters, "ASC" in directions


def read_run_id(text: str) -> str:
    """Read the id of a run.

    Raises:
        InvalidRequestError: It is no UUID.
    """
    try:
        return str(UUID(text))
    except ValueError:
        where = ("path", "run_id")
        problem = _problem(where, "uuid_parsing", "Input should be a valid UUID")
        raise InvalidRequestError([problem]) from None


def read_callback(body: bytes, content_type: str) -> tuple[str, str | None]:
    """Read what a runner reports.

    Returns:
        The status and the error.

    Raises:
        InvalidRequestError: The body isn't what it should be.
    """
    fields = _read_object(body, content_type)
    problems: list[Mapping[str, Any]] = []
    status, error = fields.get("status"), fields.get("error")
    if "status" not in fields:
        problems.append(_problem(("body", "status"), "missing", "Field required"))
    elif status not in {"COMPLETED", "FAILED"}:
        message = "Input should be 'COMPLETED' or 'FAILED'"
        problems.append(_problem(("body", "status"), "literal_error", message))
    if not isinstance(error, str | None):
        message = "Input should be a valid string"
        problems.append(_problem(("body", "error"), "string_type", message))
    elif error is not None and len(error) > MAX_ERROR_LENGTH:
        message = f"String should have at most {MAX_ERROR_LENGTH} characters"
        problems.append(_problem(("body", "error"), "string_too_long", message))
    if problems:
        raise InvalidRequestError(problems)
    return str(status), error


def read_version_ids(body: bytes, content_type: str) -> Sequence[str]:
    """Read the document versions that are to be rerun.

    Raises:
        InvalidRequestError: The body isn't what it should be.
    """
    wanted = _read_object(body, content_type).get("document_version_ids", [])
    try:
        texts = msgspec.convert(wanted, list[Any])
    except msgspec.ValidationError:
        where = ("body", "document_version_ids")
        problem = _problem(where, "list_type", "Input should be a valid list")
        raise InvalidRequestError([problem]) from None
    problems: list[Mapping[str, Any]] = []
    ids: list[str] = []
    for place, text in enumerate(texts):
        try:
            ids.append(str(UUID(text)))
        except (ValueError, AttributeError, TypeError):
            loc = ("body", "document_version_ids", place)
            problems.append(_problem(loc, "uuid_parsing", "Input should be a valid UUID"))
    if problems:
        raise InvalidRequestError(problems)
    return ids


def _read_object(body: bytes, content_type: str) -> Mapping[str, Any]:
    if not body:
        raise InvalidRequestError([_problem(("body",), "missing", "Field required")])
    try:
        if content_type.partition(";")[0].strip().lower() in {"", "application/json"}:
            return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = _problem(("body", 0), "json_invalid", "JSON decode error")
        raise InvalidRequestError([problem]) from None
    message = "Input should be a valid dictionary or object to extract fields from"
    raise InvalidRequestError([_problem(("body",), "model_attributes_type", message)])


def _problem(loc: Sequence[str | int], kind: str, message: str) -> Mapping[str, Any]:
    return {"type": kind, "loc": loc, "msg": message}
