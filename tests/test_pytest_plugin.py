"""The fixtures for users' own tests, under each of the ways in which they may run them."""

import importlib.util
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from support import PLUGIN

pytest_plugins = ["pytester"]

SOURCE = importlib.util.find_spec(PLUGIN).origin
PLAIN = """
    import asyncio
    import pytest
    import knowledgestack_async as ks

    async def find():
        async with ks.Session() as session:
            return await ks.iter_ingestion_workflows(session, status="failed")

    def test_the_environment_points_at_it(knowledge_stack_sandbox):
        found = asyncio.run(find())
        assert [w.workflow_id for w in found] == list(knowledge_stack_sandbox.store.ids("failed"))
        assert len(knowledge_stack_sandbox.store) == 20

    @pytest.mark.knowledge_stack(ingestions=7, seed=3)
    class TestWithOptions:
        def test_it_is_as_the_marker_says(self, knowledge_stack_sandbox):
            assert len(knowledge_stack_sandbox.store) == 7

        @pytest.mark.knowledge_stack(ingestions=8)
        def test_the_closer_marker_wins(self, knowledge_stack_sandbox):
            assert len(knowledge_stack_sandbox.store) == 8
            assert knowledge_stack_sandbox.seed == 3
"""
ASYNC = """
    import pytest
    import knowledgestack_async as ks

    {mark}
    async def test_a_session_is_open(knowledge_stack_session, knowledge_stack_sandbox):
        [failed, *_] = knowledge_stack_sandbox.store.ids("failed")
        await ks.rerun_ingestion_workflow(knowledge_stack_session, failed)
        assert [effect.id for effect in knowledge_stack_sandbox.effects] == [failed]
"""
ANYIO = """
    import asyncio
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(fixturedef, request):
        # What anyio's own plugin does, in short.
        if fixturedef.argname != "knowledge_stack_session":
            return None
        generator = fixturedef.func(request.getfixturevalue("knowledge_stack_sandbox"))
        session = request.getfixturevalue("loop").run_until_complete(anext(generator))
        request.addfinalizer(
            lambda: request.getfixturevalue("loop").run_until_complete(anext(generator, None))
        )
        fixturedef.cached_result = (session, None, None)
        return session

    @pytest.fixture
    def loop():
        loop = asyncio.new_event_loop()
        yield loop
        loop.close()
"""
WITHOUT = ("knowledgestack_async", "cov", "randomly", "hypothesispytest", "cacheprovider")
OPTIONS = (
    *("-p", PLUGIN),
    *(f"-pno:{plugin}" for plugin in WITHOUT),
    *("-W", "error", "--strict-markers", "--strict-config"),
)
QUIET = ("-o", "asyncio_default_fixture_loop_scope=function")  # else pytest-asyncio warns


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "sk-user-real")

    def run(test, *options):
        pytester.makeini("[pytest]")  # or one that stands above the temporary folder would be taken
        pytester.makepyfile(test)
        return pytester.runpytest_inprocess(*OPTIONS, *options)

    return run


def test_plain_tests_need_no_other_plugin(run):
    run(PLAIN, "-p", "no:asyncio").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("mode", "mark"), [("strict", "@pytest.mark.asyncio"), ("auto", "")], ids=["strict", "auto"]
)
def test_pytest_asyncio_needs_no_configuration(run, mode, mark):
    run(ASYNC.format(mark=mark), f"--asyncio-mode={mode}", *QUIET).assert_outcomes(passed=1)


def test_the_environment_is_put_back(run):
    test = """
        import os

        def test_first(knowledge_stack_sandbox):
            assert os.environ["KS_API_KEY"] == knowledge_stack_sandbox.api_key

        def test_then():
            assert os.environ["KS_API_KEY"] == "sk-user-real"
    """
    run(test, "-p", "no:asyncio").assert_outcomes(passed=2)


def test_another_runner_of_coroutines_gets_a_plain_fixture(run, pytester):
    pytester.makeconftest(ANYIO)
    test = """
        import knowledgestack_async as ks

        def test_it(loop, knowledge_stack_session):
            page = loop.run_until_complete(ks.list_ingestion_workflows(knowledge_stack_session))
            assert page.total == 20
    """
    run(test, "-p", "no:asyncio").assert_outcomes(passed=1)


def test_a_sandbox_that_cannot_start_leaves_no_thread(run):
    test = """
        import threading
        import pytest

        @pytest.mark.knowledge_stack(host="203.0.113.1")
        def test_it(knowledge_stack_sandbox): ...

        def test_no_thread_is_left():
            assert "knowledge-stack-sandbox" not in {one.name for one in threading.enumerate()}
    """
    run(test, "-p", "no:asyncio").assert_outcomes(errors=1, passed=1)


def test_it_costs_nothing_where_it_is_not_used():
    script = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('_knowledgestack_async_pytest', {SOURCE!r})\n"
        "spec.loader.exec_module(u.module_from_spec(spec))\n"
        "print(*{'knowledgestack_async', 'aiohttp', 'msgspec'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_pytest_finds_it_outside_of_the_package():
    # Inside of it, pytest would import the whole package before anybody can measure its coverage.
    [found] = entry_points(group="pytest11", name="knowledgestack_async")
    assert found.value == "_knowledgestack_async_pytest"
