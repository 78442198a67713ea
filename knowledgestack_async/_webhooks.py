"""Whether a dispatch to a runner is from the server: the signature of its webhook."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from .errors import ConfigurationError

__all__ = ["verify_webhook"]

PREFIX = "sha256="


def verify_webhook(
    secret: str | bytes | Sequence[str | bytes], body: bytes, signature: str | None
) -> bool:
    """Whether a webhook's body was signed with the runner's secret.

    The reference page (Run callback) names a webhook secret and no scheme. This is the usual one:
    HMAC-SHA256 over the raw body, in hexadecimal digits, with or without ``sha256=`` before them. It
    takes the same time wherever a signature is wrong.

    It says who sent the body, not when: a dispatch that is sent again by somebody who has seen it is
    signed as well. A run that has its outcome keeps it in any case.

    Args:
        secret: The runner's webhook secret; while it is being changed, the new one and the old one.
        body: The request's body as it came in, before anything has parsed it.
        signature: The header that holds the signature; None where there is none.

    Raises:
        ConfigurationError: There is no secret, or an empty one.

    Example:
        ```python
        if not ks.verify_webhook(
            secret, await request.read(), request.headers.get("X-KS-Signature")
        ):
            return web.Response(status=401)
        ```
    """
    secrets = [secret] if isinstance(secret, str | bytes) else list(secret)
    if not secrets or not all(secrets):
        del secret, secrets  # so that no error's frame shows them
        raise ConfigurationError("the webhook secret is empty, and an empty one proves nothing")
    given = (signature or "").strip().lower().removeprefix(PREFIX).encode(errors="replace")
    keys = [one.encode() if isinstance(one, str) else one for one in secrets]
    matches = [hmac.compare_digest(_sign(key, body), given) for key in keys]
    return any(matches)  # all were tried, so that the time doesn't tell which one it was


def _sign(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, body, hashlib.sha256).hexdigest().encode()
