"""Where the key comes from; and what looks like one, so that it is never repeated on a screen."""

from __future__ import annotations

import os
import re

import attrs
import click

from .options import Options

__all__ = ["ApiKey", "find_key", "find_token", "looks_secret"]

_NO_KEY = (
    "there is no API key: set KS_API_KEY, or give --api-key-file FILE. "
    "To try things out without one, give --sandbox."
)
_NO_WORD = (
    "{} is no key: it must be one word of plain ASCII, such as sk-user-...; "
    "is there a space or a line break in it?"
)
_NOT_HERE = (
    "{} takes the name of {}, and what was given looks like a credential itself. "
    "It is not repeated here; take it out of the shell's history, too."
)

_WORD = re.compile(r"[!-~]+")
_PREFIX = re.compile(r"sk[-_]|wf[-_]|ks_(live|test)_|eyJ|[Bb]earer\b")
_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_LONG = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+=-]{24,}")


@attrs.frozen
class ApiKey:
    """A key, and where it was found."""

    text: str = attrs.field(repr=False)
    source: str


def looks_secret(text: str) -> bool:
    """Whether a text that is to be a name is more like a credential."""
    if _PREFIX.match(text):
        return True
    return not _NAME.fullmatch(text) and bool(_LONG.fullmatch(text))


def find_key(options: Options) -> ApiKey:
    """The command's own token, else the key from the file that was named, else from the environment.

    Raises:
        click.UsageError: There is none, or it can't be one.
    """
    found = _find_key(options)
    if not _WORD.fullmatch(found.text):
        raise click.UsageError(_NO_WORD.format(found.source))
    return found


def _find_key(options: Options) -> ApiKey:
    if options.token is not None:
        return ApiKey(options.token, "--token-env")
    if options.api_key_file is not None:
        return ApiKey(_read_key(options), f"what the file {options.api_key_file} holds")
    text = os.environ.get("KS_API_KEY", "").strip()
    if not text:
        raise click.UsageError(_NO_KEY)
    return ApiKey(text, "KS_API_KEY")


def _read_key(options: Options) -> str:
    path = options.api_key_file
    assert path is not None  # noqa: S101 - what the only caller has checked
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        if looks_secret(str(path)):
            raise click.UsageError(_NOT_HERE.format("--api-key-file", "a file")) from None
        reason = getattr(error, "strerror", None) or "it is no text"
        raise click.UsageError(f"--api-key-file {path} can't be read: {reason}.") from error
    if not text:
        raise click.UsageError(f"--api-key-file {path} is empty.")
    return text


def find_token(name: str) -> str:
    """The credential in an environment variable.

    Raises:
        click.UsageError: There is none.
    """
    token = os.environ.get(name)
    if token:
        return token
    if looks_secret(name):
        raise click.UsageError(_NOT_HERE.format("--token-env", "a variable"))
    raise click.UsageError(f"--token-env {name}: there is no such variable, or it is empty.")
