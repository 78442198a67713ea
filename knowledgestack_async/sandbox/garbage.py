"""Bodies that no client should have to see, and that every client sees one day."""

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from attrs import field, frozen

_MEBIBYTE = 1 << 20
_BOMB_SIZE = 1 << 30
# What gzip's trailer says of 1 GiB of zeros; working it out anew would take a second.
_BOMB_CHECKSUM = 0x5B64C2B0


@frozen
class Garbage:
    """A bad body.

    Args:
        spoil: Makes it, out of the body that was right.
        content_type: What it claims to be.
        headers: Further headers.
    """

    spoil: Callable[[bytes], bytes]
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(factory=dict[str, str])


def make_bomb(body: bytes = b"") -> bytes:
    """Return about 1 MiB of gzip that unpacks to 1 GiB of zeros.

    Args:
        body: Ignored.
    """
    del body
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(_MEBIBYTE)
    # A fully flushed block doesn't refer back, so one block serves for all.
    block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    ending = packer.flush(zlib.Z_FINISH)
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    trailer = _BOMB_CHECKSUM.to_bytes(4, "little") + _BOMB_SIZE.to_bytes(4, "little")
    return head + block * (_BOMB_SIZE // _MEBIBYTE) + ending + trailer


_PAGE = b'{"items": [], "total": %b, "page": 1, "page_size": 20, "limit": 20, "offset": 0}'
_HTML = b"<!doctype html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1>"
_NESTING = 200_000

GARBAGE: Mapping[str, Garbage] = MappingProxyType(
    {
        "html": Garbage(lambda _: _HTML, "text/html; charset=utf-8"),
        "empty": Garbage(lambda _: b""),
        "bom": Garbage(lambda body: b"\xef\xbb\xbf" + body),
        "charset": Garbage(
            lambda body: body.decode().encode("utf-16"), "application/json; charset=no-such-charset"
        ),
        "not-utf-8": Garbage(lambda body: body[:-1] + b', "\xff\xfe": "\xe9"}'),
        "nan": Garbage(lambda _: _PAGE % b"NaN"),
        "digits": Garbage(lambda _: _PAGE % (b"9" * 5_000)),
        "nesting": Garbage(lambda _: b"[" * _NESTING + b"]" * _NESTING),
        "control-characters": Garbage(lambda _: b'{"detail": "\x1b[31m\x07\x00"}'),
        "gzip-bomb": Garbage(make_bomb, headers={"Content-Encoding": "gzip"}),
        "not-gzip": Garbage(lambda body: body, headers={"Content-Encoding": "gzip"}),
    }
)
