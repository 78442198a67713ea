"""What the README and the docs say is so: their examples run, and what they name exists."""

import ast
import asyncio
import importlib
import inspect
import logging
import os
import re
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from test_cli_support import served

import knowledgestack_async as ks
from knowledgestack_async import session as session_module
from knowledgestack_async.cli.exits import Exit
from knowledgestack_async.sandbox import Sandbox
from support import PLUGIN

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<mark><!-- [^\n]*? -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
NO_TEST = ("<!-- no test -->", "<!-- demo command -->", "<!-- test command -->")
SANDBOX = {"ingestions": 60, "dialect": "system-jobs", "speed": 60.0, "pipeline_seconds": (2, 8)}


@attrs.frozen
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    is_exempt: bool

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    text = page.read_text()
    for found in FENCE.finditer(text):
        mark = (found["mark"] or "").strip()
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(page, line, found["language"], found["code"], mark in NO_TEST)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.is_exempt]
TESTS = [block for block in PYTHON if "def test_" in block.code]
SNIPPETS = [block for block in PYTHON if block not in TESTS]
SHELL = [block for block in BLOCKS if block.language == "sh" and not block.is_exempt]


class HurriedClock:
    """A session's time that runs twenty times as fast."""

    FACTOR = 20.0

    def now(self):
        return time.monotonic() * self.FACTOR

    async def sleep(self, seconds):
        await asyncio.sleep(seconds / self.FACTOR)

    @asynccontextmanager
    async def timeout(self, seconds):
        async with asyncio.timeout(None if seconds is None else seconds / self.FACTOR):
            yield


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory to work in, a sandbox to which the environment points, and hurried waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session_module, "MonotonicClock", HurriedClock)
    logger = logging.getLogger("knowledgestack_async")
    level = logger.level
    with served(**SANDBOX) as sandbox:
        monkeypatch.setenv("KS_API_KEY", sandbox.api_key)
        monkeypatch.setenv("KS_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("KS_WEBHOOK_SECRET", sandbox.webhook_secret)
        yield sandbox
    logger.setLevel(level)  # an example shows how to set it


async def run_snippet(code, sandbox):
    """Run a block, which may await at its top, with what its page takes for granted."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    run = sandbox.store.runs.newest("RUNNING")
    async with ks.Session() as session:
        names = {
            "__name__": "__main__",
            "asyncio": asyncio,
            "ks": ks,
            "session": session,
            "ids": list(sandbox.store.ids("failed"))[:5],
            "workflow_id": sandbox.store.ids("failed")[0],
            "running_id": sandbox.store.add_ingestion("processing").workflow_id,
            "run_id": run.id,
            "token": run.token,
        }
        running = eval(compile(code, "<block>", "exec", flags=flags), names)
        if inspect.isawaitable(running):
            await running


@pytest.mark.no_cover
@pytest.mark.parametrize("block", SNIPPETS, ids=str)
def test_an_example_runs(block, here, capsys):
    if "asyncio.run(" in block.code:
        exec(compile(block.code, str(block), "exec"), {"__name__": "__main__"})
    else:
        asyncio.run(run_snippet(block.code, here))


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_an_example_of_a_test_passes(block, pytester):
    pytester.makeini("[pytest]")  # or one that stands above the temporary folder would be taken
    pytester.makepyfile(block.code)
    without = ("cov", "randomly", "hypothesispytest", "cacheprovider", "knowledgestack_async")
    done = pytester.runpytest_inprocess(
        *("-p", PLUGIN, "-W", "error"),
        *("--asyncio-mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"),
        *(f"-pno:{plugin}" for plugin in without),
    )
    done.assert_outcomes(passed=block.code.count("def test_"))


@pytest.mark.no_cover
@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_shell_example_ends_well(block, tmp_path):
    scripts = Path(sys.executable).parent
    with served(**SANDBOX) as sandbox:
        done = subprocess.run(
            ["/bin/sh", "-euc", block.code],
            cwd=tmp_path,
            env={
                **{name: value for name, value in os.environ.items() if name[:3] != "KS_"},
                "HOME": str(tmp_path),
                "XDG_STATE_HOME": str(tmp_path / "state"),
                "PATH": f"{scripts}:{os.environ['PATH']}",
                "KS_API_KEY": sandbox.api_key,
                "KS_BASE_URL": sandbox.base_url,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
    assert done.returncode == 0, done.stderr


def test_the_pages_have_examples_and_few_are_exempt():
    assert len(SNIPPETS) > 20
    assert len(TESTS) >= 3
    exempt = [block for block in BLOCKS if block.is_exempt and block.language in {"python", "sh"}]
    assert len(exempt) <= len(PYTHON) / 3


# What is named exists


def named_tests():
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for name in re.findall(r"`(tests/[\w/]+\.py::\w+)`", line):
                yield pytest.param(name, id=f"{page.name}:{number}:{name}")


def test_every_test_that_is_named_exists():
    wanted = {param.values[0] for param in named_tests()}
    assert len(wanted) > 40
    for name in sorted(wanted):
        path, _, test = name.partition("::")
        source = (ROOT / path).read_text() if (ROOT / path).exists() else ""
        assert re.search(rf"^(async )?def {test}\b", source, re.MULTILINE), name


def test_every_file_that_is_named_exists():
    for page in PAGES:
        for name in re.findall(r"`((?:tests|benchmarks|docs)/[\w/.-]*)`", page.read_text()):
            assert (ROOT / name).exists() or "*" in name, f"{page.name}: {name}"


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith(("#", "http")):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_the_reference_has_every_public_name():
    reference = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
    directive = r"auto(?:function|class|exception):: knowledgestack_async\.(\w+)$"
    documented = re.findall(directive, reference, re.MULTILINE)
    assert sorted(documented) == sorted(name for name in ks.__all__ if name != "__version__")


def shown_in_the_reference():
    """What the reference shows, by its name."""
    directive = r"auto(?:function|class|exception):: (knowledgestack_async(?:\.sandbox)?)\.(\w+)$"
    for page in sorted((DOCS / "reference").glob("*.md")):
        for module, name in re.findall(directive, page.read_text(), re.MULTILINE):
            yield name, getattr(importlib.import_module(module), name)


def lines_that_are_split(made):
    """First lines, of attributes' docstrings and of what is returned, at whose colons a type would end."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(made)))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = ast.get_docstring(node) or ""
            if any("property" in ast.unparse(each) for each in node.decorator_list):
                yield told.partition("\n")[0]
            yield from re.findall(r"^(?:Returns|Yields):\n +(.*)", told, re.MULTILINE)
        elif isinstance(node, ast.ClassDef):
            for before, after in pairwise(node.body):
                if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                    yield ast.literal_eval(after.value).partition("\n")[0]


@pytest.mark.no_cover
def test_no_colon_in_the_reference_makes_a_type_of_half_a_sentence():
    looked_at = []
    for name, made in shown_in_the_reference():
        for line in lines_that_are_split(made):
            looked_at.append(line)
            assert ":" not in re.sub(r"``.+?``", "", line), f"{name}: {line}"
    assert len(looked_at) > 50


def test_the_table_of_errors_has_every_error():
    page = (DOCS / "errors.md").read_text()
    for name in ks.__all__:
        made = getattr(ks, name)
        if isinstance(made, type) and issubclass(made, Exception):
            assert f"`{name}`" in page, name


def test_the_migration_page_has_every_call_of_the_official_client():
    page = (DOCS / "migrating.md").read_text()
    calls = {"list_dv_workflows", "get_dv_workflow", "dv_workflow_rerun", "bulk_rerun_dv_workflows"}
    calls |= {"get_temporal_workflow_status", "cancel_temporal_workflow", "get_workflow_run"}
    for call in calls | {"delete_workflow_run", "workflow_run_callback"}:
        assert f".{call}`" in page, call


def test_the_table_of_exit_codes_has_every_code():
    page = (DOCS / "guides" / "command-line.md").read_text()
    section = page.partition("## Exit codes\n")[2].partition("\n## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == list(Exit)


def test_the_key_that_is_named_is_the_sandboxs():
    named = {key for page in PAGES for key in re.findall(r"KS_API_KEY=(\S+)", page.read_text())}
    assert named == {"sk-user-...", Sandbox().api_key}


def test_only_hosts_that_we_mean_are_named():
    hosts = {"api-staging.knowledgestack.ai", "api.knowledgestack.ai", "127.0.0.1", "localhost"}
    for page in PAGES:
        for host in re.findall(r"https?://([\w.-]+)", page.read_text()):
            assert host in hosts, f"{page.name}: {host}"
