"""``python -m knowledgestack_async.sandbox``."""

import asyncio
import http.client
import json
import os
import signal
import sys
import threading

import pytest

from knowledgestack_async.sandbox.__main__ import make_parser
from support import run_module


@pytest.fixture(autouse=True)
def signals():
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def no_signal_handlers(*_):
    raise NotImplementedError


@pytest.mark.parametrize("loop_takes_signals", [True, False])
def test_it_serves_until_it_is_told_to_stop(capfd, monkeypatch, tmp_path, loop_takes_signals):
    if not loop_takes_signals:
        loop = asyncio.SelectorEventLoop
        monkeypatch.setattr(loop, "add_signal_handler", no_signal_handlers)
    effects = tmp_path / "effects"
    options = ["--dialect", "offset", "--effects-file", str(effects), "--statuses", '{"failed": 1}']
    fault = '{"kind": "status", "status": 503, "route": "get_*"}'
    monkeypatch.setattr(sys, "argv", ["sandbox", "--ingestions", "7", *options, "--fault", fault])
    monkeypatch.delitem(sys.modules, "knowledgestack_async.sandbox.__main__")
    written = threading.Event()
    real_write = sys.stdout.write
    lines = []

    def write(text):
        lines.append(text)
        written.set()
        return real_write(text)

    monkeypatch.setattr(sys.stdout, "write", write)
    answers = []

    def talk():
        written.wait(5)
        told = json.loads(lines[0])
        headers = {"Authorization": "Bearer " + told["api_key"]}
        host, port = told["base_url"].removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port))
        connection.request("GET", "/v1/workflows/document_versions?limit=2", headers=headers)
        answers.append(json.load(connection.getresponse()))
        connection.close()
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=talk)
    thread.start()
    run_module("knowledgestack_async.sandbox", monkeypatch)
    thread.join()
    assert (answers[0]["total"], answers[0]["limit"]) == (7, 2)
    assert answers[0]["items"][0]["status"] == "failed"
    assert [json.loads(line)["type"] for line in effects.read_text().splitlines()] == [
        "request",
        "answer",
    ]


def test_its_options_have_the_sandboxs_defaults():
    options = vars(make_parser().parse_args([]))
    assert (options["ingestions"], options["dialect"], options["record"]) == (
        20,
        "documented",
        True,
    )
