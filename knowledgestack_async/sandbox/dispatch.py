"""Triggers a self-hosted runner the way the service does: a signed POST to its webhook."""

import hashlib
import hmac
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientTimeout, TCPConnector

_SECONDS = 30


async def post_signed(url: str, payload: Any, secret: str) -> int:
    """Send a signed object.

    Args:
        url: Where the runner listens.
        payload: What is sent, as JSON.
        secret: What it is signed with: the header ``X-KS-Signature`` holds ``sha256=`` and the
            HMAC of the raw body in hexadecimal digits.

    Returns:
        The status that the runner answers with.
    """
    body = msgspec.json.encode(payload)
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-KS-Signature": f"sha256={signature}"}
    async with (
        ClientSession(
            connector=TCPConnector(force_close=True), timeout=ClientTimeout(total=_SECONDS)
        ) as session,
        session.post(url, data=body, headers=headers, allow_redirects=False) as response,
    ):
        return response.status
