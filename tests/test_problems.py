"""From what went wrong to the error that says so: which one, how sure, and what to do."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knowledgestack_async as ks
from knowledgestack_async._dialects import GENERATIONS, Route, Target
from knowledgestack_async._problems import Problem, call_facts, make_error
from knowledgestack_async._retry import Fault
from knowledgestack_async._wire import Answer, Call, route_target


def call_of(kind):
    """A read, a change that may be repeated, and one that may not."""
    return Call(
        method={"read": "GET", "repeatable": "DELETE", "once": "POST"}[kind],
        target=route_target(Route.RUN, "r-1"),
        read=lambda _answer, _dialect: None,
        idempotent=kind != "once",
        effect=kind != "read",
    )


def error_of(kind, problem, *, doubted=False, deadline_is_over=False, why="enough"):
    call = call_of(kind)
    facts = call_facts(call, Target("/v1/x/r-1", "page=2"), 3)
    return make_error(
        call, facts, problem, doubted=doubted, deadline_is_over=deadline_is_over, why=why
    )


def answer(status, detail="no", **headers):
    return Answer(status, headers, json.dumps({"detail": detail}).encode())


LOST = Problem(Fault.UNCERTAIN, "the connection was lost")
BUSY = Problem(Fault.REFUSED, "the server answered 503", answer(503), retry_after=2.5)
BROKEN = Problem(Fault.UNCERTAIN, "the server answered 500", answer(500))
REDIRECT = Problem(Fault.ODD, "the server answered 302", answer(302))
UNREADABLE = Problem(Fault.ODD, "expected a text, got null", answer(200), json_path="$.status")
REFUSED = Problem(Fault.NOT_SENT, "no connection: refused")
TRUST = "Check the server's certificate, or give ssl= a context that trusts it."
UNTRUSTED = Problem(Fault.UNTRUSTED, "TLS failed: expired", hint=TRUST)
MISSING = Problem(Fault.DENIED, "the server answered 404", answer(404))
QUOTA = Problem(Fault.QUOTA, "429", Answer(429, {}, b'{"detail": "x", "code": "quota_exceeded"}'))


@pytest.mark.parametrize(
    ("problem", "read", "effect"),
    [
        (LOST, ks.ConnectionLost, ks.OutcomeUnknown),
        (BROKEN, ks.ServerError, ks.OutcomeUnknown),
        (REDIRECT, ks.InvalidResponse, ks.OutcomeUnknown),
        (UNREADABLE, ks.InvalidResponse, ks.OutcomeUnknown),
        (BUSY, ks.ServiceUnavailable, ks.ServiceUnavailable),
        (REFUSED, ks.ConnectionFailed, ks.ConnectionFailed),
        (UNTRUSTED, ks.ConnectionFailed, ks.ConnectionFailed),
        (MISSING, ks.NotFound, ks.NotFound),
        (QUOTA, ks.QuotaExceeded, ks.QuotaExceeded),
    ],
)
def test_each_fault_is_its_error(problem, read, effect):
    assert type(error_of("read", problem)) is read
    assert type(error_of("repeatable", problem)) is effect
    assert type(error_of("once", problem)) is effect


@pytest.mark.parametrize("problem", [LOST, BROKEN, REDIRECT, BUSY, REFUSED, UNTRUSTED])
@pytest.mark.parametrize("kind", ["repeatable", "once"])
def test_what_may_have_acted_before_is_unknown_for_good(kind, problem):
    error = error_of(kind, problem, doubted=True)
    assert type(error) is ks.OutcomeUnknown
    assert error.message == f"it may have acted: {problem.reason}"


@pytest.mark.parametrize("problem", [MISSING, QUOTA])
def test_a_clear_no_is_that_error_whatever_was_before(problem):
    assert isinstance(error_of("once", problem, doubted=True), ks.ResponseError)


def test_a_read_changes_nothing_so_it_is_never_unknown():
    for problem in (LOST, BROKEN, REDIRECT, BUSY, REFUSED):
        assert type(error_of("read", problem, doubted=True)) is not ks.OutcomeUnknown


@pytest.mark.parametrize(
    ("kind", "safe", "hint"),
    [("repeatable", True, "does no harm"), ("once", False, "it may run twice")],
)
def test_an_unknown_outcome_says_whether_to_send_it_again(kind, safe, hint):
    error = error_of(kind, LOST)
    assert error.safe_to_retry is safe
    assert hint in error.hint


def test_every_error_says_which_call_and_how_often():
    for problem in (LOST, BROKEN, REDIRECT, BUSY, REFUSED, UNTRUSTED, MISSING, QUOTA, UNREADABLE):
        for kind in ("read", "once"):
            error = error_of(kind, problem)
            assert (error.path, error.tries) == ("/v1/x/r-1", 3)
            assert error.method == call_of(kind).method
            assert error.status == (problem.answer.status if problem.answer else None)
            assert error.hint


def test_the_servers_request_id_is_kept():
    problem = Problem(Fault.UNCERTAIN, "500", answer(500, **{"x-request-id": "r-9"}))
    assert error_of("once", problem).request_id == "r-9"
    assert error_of("read", problem).request_id == "r-9"


def test_a_refusal_tells_what_was_asked_for_and_why_it_is_given_up():
    error = error_of("read", BUSY, why="5 tries are all that the retry policy allows")
    assert error.retry_after == 2.5
    assert error.hint.endswith("Not tried again: 5 tries are all that the retry policy allows.")


def test_a_lost_read_tells_why_it_is_given_up():
    assert error_of("read", LOST, why="the budget is used up").hint == (
        "Not tried again: the budget is used up."
    )


@pytest.mark.parametrize("problem", [LOST, REFUSED])
def test_what_ends_for_want_of_time_says_so(problem):
    error = error_of("read", problem, deadline_is_over=True)
    assert type(error) is ks.DeadlineExceeded
    assert error.message == f"the deadline is over; at last {problem.reason}"


def test_an_answer_is_told_even_when_time_is_over():
    assert type(error_of("read", BUSY, deadline_is_over=True)) is ks.ServiceUnavailable


def test_a_change_that_may_have_acted_is_unknown_even_when_time_is_over():
    assert type(error_of("once", LOST, deadline_is_over=True)) is ks.OutcomeUnknown


def test_an_unreadable_answer_says_where_and_how_it_begins():
    error = error_of("read", UNREADABLE)
    assert error.json_path == "$.status"
    assert error.message == (
        'expected a text, got null at $.status; the body begins \'{"detail": "no"}\''
    )
    assert "base_url" in error.hint


def test_a_redirect_says_why_it_is_not_followed():
    assert "Redirects would carry the key elsewhere" in error_of("read", REDIRECT).hint


def test_an_odd_fault_without_an_answer_is_told_too():
    error = error_of("read", Problem(Fault.ODD, "odd\nindeed"))
    assert (error.message, error.json_path) == ("odd\\nindeed", None)
    assert "proxy" in error.hint


@settings(deadline=None)
@given(st.binary(max_size=2_000))
def test_at_most_200_characters_of_a_body_are_shown(body):
    problem = Problem(Fault.ODD, "no JSON", Answer(200, {}, body))
    message = error_of("read", problem).message
    assert len(message) <= 2 * 200 + 60
    assert message.isprintable()


def test_a_certificate_that_is_not_trusted_has_its_own_hint():
    assert error_of("read", UNTRUSTED).hint == TRUST
    assert "base URL" in error_of("read", REFUSED).hint


@pytest.mark.parametrize("dialect", GENERATIONS)
def test_the_facts_of_a_call_hold_no_query(dialect):
    call = call_of("read")
    assert call_facts(call, call.target(dialect), 1) == {
        "method": "GET",
        "path": "/v1/workflow-runs/r-1",
        "tries": 1,
    }
