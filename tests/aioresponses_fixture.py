"""aioresponses for the aiohttp of today: it records each request just as the SDK handed it over.

aioresponses 0.7.9 makes answers without the ``stream_writer`` that aiohttp 3.14 asks for.
"""

import inspect
from types import SimpleNamespace

import attrs
import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses

WANTS_WRITER = "stream_writer" in inspect.signature(ClientResponse).parameters


class MockedResponse(ClientResponse):
    """An answer with all that this version of aiohttp wants it to be made of."""

    def __init__(self, *args, **options):
        if WANTS_WRITER:
            options["stream_writer"] = SimpleNamespace(output_size=0)
        super().__init__(*args, **options)


@attrs.frozen
class Sent:
    """One request as it was handed to aiohttp, with the headers that its session adds."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


class Mocked(aioresponses):
    """aioresponses that answer with such answers, and keep the exact requests in ``sent``."""

    def __init__(self):
        super().__init__()
        self.sent: list[Sent] = []

    def add(self, *args, **options):
        super().add(*args, **{"response_class": MockedResponse, **options})

    async def _request_mock(self, orig_self, method, url, *args, **options):
        assert not {"params", "json", "auth", "cookies"} & set(options)
        headers = {**orig_self.headers, **options["headers"]}
        self.sent.append(Sent(method, str(url), headers, options["data"]))
        return await super()._request_mock(orig_self, method, url, *args, **options)


@pytest.fixture
def mocked():
    with Mocked() as made:
        yield made
