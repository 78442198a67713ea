"""What users give: checked before any I/O, with a word on what would be right."""

import asyncio
import itertools
import pickle

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knowledgestack_async as ks
from knowledgestack_async._checks import check_count, check_seconds
from knowledgestack_async._settings import (
    UNSET,
    GivenKeys,
    SealedHeaders,
    call_options,
    changed,
    resolve_key,
)
from knowledgestack_async._wire import Secret, seal

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def no_environment(monkeypatch):
    for name in ("KS_API_KEY", "KS_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def options(api_key="sk-user-1", timeout=30.0, deadline=None, headers=None, retry=None):
    sealed = None if headers is None else SealedHeaders(headers)
    return call_options(seal(api_key), timeout, deadline, sealed, retry)


def but(options_, **changes):
    unchanged = dict.fromkeys(["api_key", "timeout", "headers", "retry"]) | {"deadline": UNSET}
    seals = {"api_key": seal, "headers": SealedHeaders}
    sealed = {name: seals.get(name, lambda same: same)(value) for name, value in changes.items()}
    return changed(options_, **{**unchanged, **sealed})


# Numbers


@settings(deadline=None)
@given(st.integers(1, 10**9), st.none() | st.integers(1, 10**9))
def test_a_count_is_a_whole_number_within_its_bound(value, most):
    if most is None or value <= most:
        assert check_count(value, "page", most=most) == value
    else:
        with pytest.raises(ks.ConfigurationError, match=f"page must be .* from 1 to {most}, not"):
            check_count(value, "page", most=most)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None, NAN, [1]])
def test_another_count_is_refused(value):
    with pytest.raises(ks.ConfigurationError, match=r"^page must be a whole number from 1, not"):
        check_count(value, "page")


@pytest.mark.parametrize("value", [1, 0.001, 1e9])
def test_seconds_are_a_number_above_zero(value):
    assert check_seconds(value, "timeout") == value
    assert type(check_seconds(value, "timeout")) is float


@pytest.mark.parametrize("value", [-1, -0.1, NAN, INF, -INF, "1", True, False, None])
def test_other_seconds_are_refused(value):
    with pytest.raises(
        ks.ConfigurationError, match=r"^timeout must be a number of seconds above 0"
    ):
        check_seconds(value, "timeout")
    with pytest.raises(ks.ConfigurationError, match=r"^timeout must be a number of seconds from 0"):
        check_seconds(value, "timeout", or_zero=True)


def test_zero_seconds_are_refused_unless_allowed():
    assert check_seconds(0, "base_delay", or_zero=True) == 0
    with pytest.raises(ks.ConfigurationError, match="above 0"):
        check_seconds(0, "timeout")


# The key


def test_the_key_is_the_arguments_before_the_environments(monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "from-environment")
    assert options(api_key=None).key.reveal() == "from-environment"
    assert options(api_key="from-argument").key.reveal() == "from-argument"


@pytest.mark.parametrize("value", [None, ""])
def test_no_key_is_a_clear_error(no_environment, value):
    with pytest.raises(ks.ConfigurationError, match=r"set KS_API_KEY, or give Session\(api_key="):
        options(api_key=value)
    with pytest.raises(ks.ConfigurationError, match="KS_API_KEY"):
        ks.Session(value)


def test_an_empty_environment_is_no_key(monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "")
    with pytest.raises(ks.ConfigurationError, match="no API key"):
        options(api_key=None)


def test_a_key_that_no_header_takes_is_refused(monkeypatch):
    monkeypatch.setenv("KS_API_KEY", "canary with spaces\n")
    with pytest.raises(ks.ConfigurationError, match="one word of plain ASCII") as caught:
        options(api_key=None)
    assert "canary" not in str(caught.value)


def test_the_key_and_the_headers_are_not_shown():
    made = options("canary", headers={"X-Tenant": "canary"})
    assert "canary" not in repr(made)
    assert "canary" not in str(msgspec.structs.asdict(made)["key"])
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(made)


async def test_a_key_may_be_a_function_or_a_coroutine_function_asked_each_time():
    keys = iter(["k-1", "k-2", "k-3"])

    async def later():
        return next(keys)

    plain = options(api_key=lambda: next(keys)).key
    assert (await resolve_key(plain)).reveal() == "k-1"
    assert (await resolve_key(options(api_key=later).key)).reveal() == "k-2"
    assert (await resolve_key(plain)).reveal() == "k-3"
    fixed = Secret("k-0")
    assert await resolve_key(fixed) is fixed


@pytest.mark.parametrize("found", [None, "", "a b", 7])
async def test_a_function_that_gives_no_key_is_a_clear_error(found):
    with pytest.raises(
        ks.ConfigurationError, match=r"^what the function for api_key or token gave"
    ):
        await resolve_key(lambda: found)


async def test_a_function_whose_own_work_was_cancelled_cancels_no_call():
    async def refresh():
        await refreshing

    refreshing = asyncio.get_running_loop().create_future()
    refreshing.cancel()
    with pytest.raises(ks.ConfigurationError, match="the function for api_key or token was"):
        await resolve_key(refresh)
    refreshing = asyncio.get_running_loop().create_future()
    call = asyncio.create_task(resolve_key(refresh))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_the_last_hundred_keys_that_functions_gave_are_known():
    known = GivenKeys()
    keys = itertools.count()
    for _ in range(150):
        await known.resolve(lambda: f"k-{next(keys)}")
        await known.resolve(lambda: "again")
        await known.resolve(Secret("fixed"))
    words = {key.reveal() for key in known}
    assert len(words) == 100
    assert {"again", "k-149"} < words
    assert "fixed" not in words


# The base URL and other settings of a session


def test_the_base_url_is_the_arguments_then_the_environments_then_the_documented(
    no_environment, monkeypatch
):
    assert ks.Session("k").base_url == "https://api-staging.knowledgestack.ai"
    monkeypatch.setenv("KS_BASE_URL", "https://self.hosted/ks/")
    assert ks.Session("k").base_url == "https://self.hosted/ks"
    assert ks.Session("k", "https://other").base_url == "https://other"
    monkeypatch.setenv("KS_BASE_URL", "http://self.hosted")
    with pytest.raises(ks.ConfigurationError, match="plain http"):
        ks.Session("k")
    assert ks.Session("k", allow_plain_http=True).base_url == "http://self.hosted"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"timeout": 0}, "timeout must"),
        ({"timeout": None}, "timeout must"),
        ({"deadline": -1}, "deadline must"),
        ({"deadline": NAN}, "deadline must"),
        ({"retry": 3}, "retry must be a RetryPolicy, not int"),
        ({"dialect": "latest"}, "dialect must be"),
        ({"max_in_flight": 0}, "max_in_flight must"),
        ({"rate": 0}, "rate must"),
        ({"rate": INF}, "rate must"),
        ({"headers": {"Authorization": "x"}}, "give api_key instead"),
    ],
)
def test_a_wrong_setting_of_a_session_is_refused(wrong, message):
    with pytest.raises(ks.ConfigurationError, match=message):
        ks.Session("k", **wrong)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "authorization",
        "Host",
        "Connection",
        "Content-Length",
        "content-type",
        "Transfer-Encoding",
        "Accept-Encoding",
        "Cookie",
        "Expect",
        "TE",
        "Trailer",
        "Upgrade",
        "Proxy-Authorization",
        "Accept",
        "user-agent",
    ],
)
def test_a_header_that_the_session_sets_is_refused(name):
    with pytest.raises(ks.ConfigurationError, match=f"the header {name} can't be set"):
        options(headers={name: "x"})


@pytest.mark.parametrize("name", ["", "a b", "X:", "X\n", "é", "X-Tenant\r\nY"])
def test_what_is_no_headers_name_is_refused(name):
    with pytest.raises(ks.ConfigurationError, match="is not the name of a header"):
        options(headers={name: "x"})


@pytest.mark.parametrize("value", ["a\r\nY: 1", "\x00", "\t", "\x7f", 5, None, b"x"])
def test_a_headers_value_is_a_text_without_control_characters(value):
    with pytest.raises(ks.ConfigurationError, match="the header X-Tenant must be a text"):
        options(headers={"X-Tenant": value})


def test_other_headers_are_taken():
    assert options(headers={"X-Tenant": "a b é"}).headers.reveal() == {"X-Tenant": "a b é"}
    assert options().headers.reveal() == {}


def test_options_that_may_see_different_things_have_different_identities():
    def later():
        return "k"

    sources = ["k-1", "k-2", later, lambda: "k"]
    identities = [options(key).identity for key in sources]
    identities += [options("k-1", headers={"X-Tenant": text}).identity for text in "ab"]
    assert len(set(identities)) == len(identities)
    assert options(later).identity == options(later).identity
    same = options("k-1", headers={"B": "2", "A": "1"}, timeout=1)
    assert same.identity == options("k-1", headers={"A": "1", "B": "2"}, deadline=9).identity


def test_an_identity_does_not_tell_the_key():
    assert "canary" not in repr(options("canary").identity)


# Changing them for some calls


def test_what_is_not_changed_stays():
    before = options(deadline=9, headers={"A": "1"})
    assert but(before) == before
    after = but(before, timeout=1)
    assert (after.key, after.deadline, after.retry) == (before.key, 9.0, before.retry)
    assert after.headers.reveal() == {"A": "1"}


def test_a_deadline_can_be_taken_off():
    assert but(options(deadline=9), deadline=None).deadline is None


def test_each_option_can_be_changed():
    policy = ks.RetryPolicy(tries=1)
    before = options(headers={"A": "1", "B": "1"})
    after = but(
        before, api_key="k-2", timeout=1, deadline=2, headers={"B": "2", "C": "2"}, retry=policy
    )
    assert after.key.reveal() == "k-2"
    assert (after.timeout, after.deadline, after.retry) == (1.0, 2.0, policy)
    assert after.headers.reveal() == {"A": "1", "B": "2", "C": "2"}
    assert before.headers.reveal() == {"A": "1", "B": "1"}
    assert before.key.reveal() == "sk-user-1"


def test_a_header_is_replaced_however_it_is_spelt():
    after = but(options(headers={"X-Tenant": "a", "X-Other": "b"}), headers={"x-tenant": "c"})
    assert after.headers.reveal() == {"X-Other": "b", "x-tenant": "c"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"api_key": ""}, "api_key must"),
        ({"api_key": 5}, "api_key must be a str"),
        ({"timeout": 0}, "timeout must"),
        ({"deadline": 0}, "deadline must"),
        ({"headers": {"Host": "x"}}, "can't be set"),
        ({"retry": {"tries": 2}}, "retry must be a RetryPolicy"),
    ],
)
def test_a_wrong_change_is_refused(change, message):
    with pytest.raises(ks.ConfigurationError, match=message):
        but(options(), **change)


def test_a_view_of_a_session_has_the_change_and_the_session_has_not():
    session = ks.Session("k", "https://host")
    view = session.with_options(timeout=1.5)
    assert view.base_url == session.base_url
    assert view._options.timeout == 1.5
    assert session._options.timeout == 30.0
