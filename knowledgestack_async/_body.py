"""Taking in a body: under a cap, and out of the codings that it came in."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["BODY_LIMIT", "Body", "UnreadableBody", "codings_of"]

BODY_LIMIT = 8 * 2**20
CHUNK = 2**16
_GZIP, _RAW = 16 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_SIZE = f"the body is larger than {BODY_LIMIT >> 20} MiB"


class UnreadableBody(Exception):
    """A body that can't be taken in; ``is_cut``: because the end of it is missing."""

    def __init__(self, reason: str, *, is_cut: bool = False) -> None:
        super().__init__(reason)
        self.is_cut = is_cut


def codings_of(headers: Sequence[str]) -> list[str]:
    """The codings that some ``Content-Encoding`` headers name and that have to be undone, in order.

    A list may be spread over several headers (RFC 9110, 5.3). What is not a coding of ours is left
    alone: whether the bytes are JSON shows.
    """
    named = [name.strip().lower() for header in headers for name in header.split(",")]
    return [name.removeprefix("x-") for name in named if name in {"gzip", "x-gzip", "deflate"}]


class Body:
    """A body as it comes in, up to a size; each coding is undone piece by piece."""

    def __init__(self, codings: Sequence[str] = ()) -> None:
        self._packed_left = BODY_LIMIT
        self._whole = _Whole()
        self._first: _Stage = self._whole
        self._decoders: list[_Decoder] = []
        for coding in codings:
            decoder = _Decoder(coding, self._first)
            self._decoders.insert(0, decoder)
            self._first = decoder

    def add(self, piece: bytes) -> None:
        """Take in what came.

        Raises:
            UnreadableBody: It is too large, or not in the coding that it is said to be in.
        """
        self._packed_left -= len(piece)
        if self._packed_left < 0:
            raise UnreadableBody(_SIZE)
        self._first.add(piece)

    def whole(self) -> bytes:
        """All of it.

        Raises:
            UnreadableBody: It ends too soon.
        """
        for decoder in self._decoders:
            decoder.finish()
        return b"".join(self._whole.pieces)


class _Stage(Protocol):
    def add(self, piece: bytes) -> None: ...


class _Whole:
    """The pieces, with no coding left."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._left = BODY_LIMIT

    def add(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise UnreadableBody(_SIZE)
        self.pieces.append(piece)


class _Decoder:
    """Undoes one coding; what follows a compressed stream is another one, or padding."""

    def __init__(self, coding: str, following: _Stage) -> None:
        self._following = following
        self._is_gzip = coding == "gzip"
        self._inflate: Any = zlib.decompressobj(wbits=_GZIP if self._is_gzip else zlib.MAX_WBITS)
        self._has_begun = False

    def add(self, piece: bytes) -> None:
        while piece:
            if self._inflate.eof:
                piece = piece.lstrip(b"\0")
                if not piece:
                    return
                if not self._is_gzip:
                    raise UnreadableBody("something follows the compressed body")
                self._inflate = zlib.decompressobj(wbits=_GZIP)
            try:
                unpacked = self._inflate.decompress(piece, CHUNK)
            except zlib.error:
                if self._is_gzip or self._has_begun:
                    raise UnreadableBody("the body can't be decompressed") from None
                # Some servers send deflate without zlib's head (RFC 9110, 8.4.1.2).
                self._has_begun, self._inflate = True, zlib.decompressobj(wbits=_RAW)
                continue
            self._has_begun = True
            self._following.add(unpacked)
            piece = self._inflate.unconsumed_tail or self._inflate.unused_data

    def finish(self) -> None:
        """Make sure that it is whole."""
        if self._has_begun and not self._inflate.eof:
            raise UnreadableBody("the compressed body ends too soon", is_cut=True)
