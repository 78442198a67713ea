"""The servers that the contenders talk to, each a process of its own: none of them is the bottleneck.

nginx where the answer only echoes the id; where it is not installed, and where answers are late or
depend on the query, ``raw_server.py``.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from payloads import STATUS

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

# The id is echoed by nginx itself, so that every contender can check that the answer is its own.
CONFIG = """
daemon off;
worker_processes 1;
error_log stderr crit;
pid {home}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location ~ ^/v1/(?:workflows|system-jobs)/([^/]+)$ {{ return 200 '{status}'; }}
  }}
}}
"""


@contextmanager
def status_server() -> Iterator[str]:
    """Answers a workflow's status, whatever its id is; gives the URL."""
    if NGINX is None:
        with raw_server() as url:
            yield url
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        config = Path(home, "nginx.conf")
        config.write_text(CONFIG.format(home=home, port=port, status=STATUS.replace("%s", "$1")))
        with running([NGINX, "-p", home, "-c", str(config)], port) as url:
            yield url


@contextmanager
def raw_server(latency: float = 0.0, total: int = 0, shape: str = "current") -> Iterator[str]:
    """Answers statuses, and pages of a list of so many items, each answer so many seconds late."""
    port = free_port()
    script = Path(__file__).with_name("raw_server.py")
    with running([sys.executable, script, str(port), str(latency), str(total), shape], port) as url:
        yield url


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running(command: list[str | Path], port: int) -> Iterator[str]:
    """A server, from when it takes connections until the block ends."""
    process = subprocess.Popen(command)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
