"""May it be sent again, and when: the whole table, the waits, and the budget for outages."""

import random
from collections import deque

import backoff
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knowledgestack_async as ks
from knowledgestack_async._retry import Fault, RetryBudget, decide, fault_of
from knowledgestack_async._wire import Answer

POLICY = ks.RetryPolicy()


class Chance:
    """Chance that always draws the same."""

    def __init__(self, drawn=0.5):
        self.drawn = drawn

    def random(self):
        return self.drawn


def verdict(fault, *, idempotent=True, tries=1, retry_after=None, time_left=120.0, **changes):
    return decide(
        changes.get("policy", POLICY),
        fault,
        idempotent=idempotent,
        tries=tries,
        retry_after=retry_after,
        time_left=time_left,
        chance=Chance(changes.get("drawn", 0.5)),
    )


# What went wrong

BY_STATUS = {
    200: None,
    201: None,
    204: None,
    299: None,
    206: Fault.ODD,
    100: Fault.ODD,
    199: Fault.ODD,
    300: Fault.ODD,
    301: Fault.ODD,
    302: Fault.ODD,
    304: Fault.ODD,
    307: Fault.ODD,
    400: Fault.DENIED,
    401: Fault.DENIED,
    403: Fault.DENIED,
    404: Fault.DENIED,
    408: Fault.UNCERTAIN,
    409: Fault.DENIED,
    422: Fault.DENIED,
    429: Fault.REFUSED,
    499: Fault.DENIED,
    500: Fault.UNCERTAIN,
    502: Fault.UNCERTAIN,
    503: Fault.REFUSED,
    504: Fault.UNCERTAIN,
    501: Fault.ODD,
    505: Fault.ODD,
    599: Fault.ODD,
    600: Fault.ODD,
}


@pytest.mark.parametrize(("status", "fault"), BY_STATUS.items())
def test_a_status_is_its_kind_of_fault(status, fault):
    assert fault_of(Answer(status, {}, b'{"detail": "x", "code": "other"}')) is fault


def test_a_quota_refusal_is_a_fault_of_its_own():
    body = b'{"detail": "used up", "code": "quota_exceeded"}'
    assert fault_of(Answer(429, {}, body)) is Fault.QUOTA
    assert fault_of(Answer(503, {}, body)) is Fault.REFUSED


# Whether it is sent again

AGAIN = {
    (Fault.NOT_SENT, True): True,
    (Fault.NOT_SENT, False): True,
    (Fault.REFUSED, True): True,
    (Fault.REFUSED, False): True,
    (Fault.UNCERTAIN, True): True,
    (Fault.UNCERTAIN, False): False,
    (Fault.ODD, True): False,
    (Fault.ODD, False): False,
    (Fault.DENIED, True): False,
    (Fault.DENIED, False): False,
    (Fault.QUOTA, True): False,
    (Fault.QUOTA, False): False,
    (Fault.UNTRUSTED, True): False,
    (Fault.UNTRUSTED, False): False,
}


def test_the_table_knows_every_fault():
    assert {fault for fault, _ in AGAIN} == set(Fault)


@pytest.mark.parametrize(("case", "again"), AGAIN.items())
@pytest.mark.parametrize("retry_after", [None, 0.0, 1.0])
def test_only_what_is_safe_and_may_help_is_sent_again(case, again, retry_after):
    fault, idempotent = case
    found = verdict(fault, idempotent=idempotent, retry_after=retry_after)
    assert (found.wait is not None) is again
    assert found.reason == ("" if again else "sending it again would not help, or is not safe")


@pytest.mark.parametrize(("tries", "again"), [(1, True), (4, True), (5, False), (6, False)])
def test_the_tries_of_the_policy_are_all(tries, again):
    found = verdict(Fault.REFUSED, tries=tries)
    assert (found.wait is not None) is again
    if not again:
        assert found.reason == f"{tries} tries are all that the retry policy allows"


def test_one_try_means_no_retry():
    assert verdict(Fault.NOT_SENT, policy=ks.RetryPolicy(tries=1)).wait is None


# When


@pytest.mark.parametrize(
    ("tries", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (6, 16.0), (7, 20.0), (60, 20.0)]
)
def test_the_ceiling_doubles_up_to_its_limit(tries, ceiling):
    assert POLICY.ceiling(tries) == ceiling


def test_the_ceilings_are_backoffs():
    policy = ks.RetryPolicy(base_delay=0.3, max_delay=7.0)
    delays = backoff.expo(base=2, factor=0.3, max_value=7.0)
    next(delays)
    assert [policy.ceiling(tries) for tries in range(1, 9)] == [next(delays) for _ in range(8)]


@pytest.mark.parametrize(("drawn", "wait"), [(0.0, 0.0), (0.5, 1.0), (0.75, 1.5)])
def test_the_wait_is_jittered_in_full(drawn, wait):
    assert verdict(Fault.NOT_SENT, tries=3, drawn=drawn).wait == wait


@settings(deadline=None)
@given(
    retry_after=st.floats(0, 200),
    tries=st.integers(1, 9),
    time_left=st.floats(-10, 200),
    drawn=st.floats(0, 1, exclude_max=True),
    base_delay=st.floats(0, 30),
)
def test_retry_after_is_never_undercut_nor_the_time_left_overrun(
    retry_after, tries, time_left, drawn, base_delay
):
    policy = ks.RetryPolicy(tries=10, base_delay=base_delay)
    found = verdict(
        Fault.REFUSED,
        tries=tries,
        retry_after=retry_after,
        time_left=time_left,
        drawn=drawn,
        policy=policy,
    )
    if retry_after >= time_left:
        assert found.wait is None
        assert "the time left is shorter than" in found.reason
    else:
        assert retry_after <= found.wait < time_left
        assert found.wait <= max(retry_after * 1.25, policy.ceiling(tries))


@settings(deadline=None)
@given(
    tries=st.integers(1, 9),
    time_left=st.floats(-1, 0) | st.floats(1e-6, 200),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_stays_under_its_ceiling_and_within_the_time_left(tries, time_left, drawn):
    policy = ks.RetryPolicy(tries=10)
    found = verdict(Fault.NOT_SENT, tries=tries, time_left=time_left, drawn=drawn, policy=policy)
    if time_left <= 0:
        assert found.wait is None
    else:
        assert 0 <= found.wait < time_left
        assert found.wait <= policy.ceiling(tries)


@pytest.mark.parametrize(
    ("drawn", "retry_after", "tries", "wait"),
    [
        (0.0, 8.0, 1, 8.0),
        (0.5, 8.0, 1, 8.25),
        (0.5, 8.0, 5, 9.0),
        # Nothing, or next to nothing, is no reason to hurry: then the ordinary delays hold.
        (0.5, 0.0, 5, 4.0),
        (0.5, 0.01, 5, 4.0),
    ],
)
def test_jitter_comes_on_top_of_retry_after(drawn, retry_after, tries, wait):
    policy = ks.RetryPolicy(tries=9)
    found = verdict(Fault.REFUSED, tries=tries, retry_after=retry_after, drawn=drawn, policy=policy)
    assert found.wait == wait


def test_a_wait_that_is_too_long_says_so():
    found = verdict(Fault.REFUSED, retry_after=60.0, time_left=60.0)
    assert (found.wait, found.reason) == (
        None,
        "the time left is shorter than the 60 s that must be waited",
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("tries", 0),
        ("tries", 1.5),
        ("tries", True),
        ("base_delay", -1),
        ("max_delay", float("nan")),
        ("give_up_after", float("inf")),
        ("give_up_after", "9"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(setting, value):
    with pytest.raises(ks.ConfigurationError, match=rf"^{setting} must"):
        ks.RetryPolicy(**{setting: value})


def test_a_policy_may_wait_not_at_all():
    policy = ks.RetryPolicy(base_delay=0, max_delay=0, give_up_after=0)
    assert verdict(Fault.NOT_SENT, policy=policy).wait == 0.0


# The budget


def test_a_budget_is_taken_and_given_back():
    budget = RetryBudget()
    assert [budget.take() for _ in range(36)] == [True] * 35 + [False]
    assert budget.is_empty
    budget.give_back(2)
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_a_success_at_the_first_try_gives_a_little_back():
    budget = RetryBudget()
    while budget.take():
        pass
    for _ in range(9):
        budget.give_back(0)
    assert budget.is_empty
    budget.give_back(0)
    budget.give_back(0)  # floats: ten tenths may be a hair less than one
    assert budget.take()
    assert budget.is_empty


def test_a_budget_holds_no_more_than_its_capacity():
    budget = RetryBudget()
    budget.give_back(1_000)
    taken = 0
    while budget.take():
        taken += 1
    assert taken == RetryBudget.CAPACITY


def simulate(calls, fails, *, concurrency, chance):
    """Calls that take turns; each failed try asks the policy and the budget for another."""
    budget = RetryBudget()
    waiting = deque((0, 0) for _ in range(calls))
    active = deque()
    requests = succeeded = 0
    while active or waiting:
        while waiting and len(active) < concurrency:
            active.append(waiting.popleft())
        tries, retries = active.popleft()
        requests += 1
        if not fails():
            succeeded += 1
            budget.give_back(retries)
            continue
        found = decide(
            POLICY,
            Fault.REFUSED,
            idempotent=True,
            tries=tries + 1,
            retry_after=None,
            time_left=120.0,
            chance=chance,
        )
        if found.wait is not None and budget.take():
            active.append((tries + 1, retries + 1))
    return requests / calls, succeeded / calls


@pytest.mark.parametrize(("calls", "most"), [(10_000, 1.01), (1_000, 1.04)])
@pytest.mark.parametrize("concurrency", [1, 20, 1_000])
def test_a_total_outage_costs_hardly_more_than_one_request_a_call(calls, most, concurrency):
    cost, succeeded = simulate(
        calls, lambda: True, concurrency=concurrency, chance=random.Random(7)
    )
    assert 1 < cost <= most
    assert succeeded == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("concurrency", [1, 20, 100])
def test_noise_of_a_tenth_is_overcome_at_little_cost(seed, concurrency):
    chance = random.Random(seed)
    cost, succeeded = simulate(
        10_000, lambda: chance.random() < 0.1, concurrency=concurrency, chance=chance
    )
    assert succeeded >= 0.998
    assert 1.1 < cost <= 1.12


def test_the_budget_recovers_after_an_outage():
    budget = RetryBudget()
    while budget.take():
        pass
    for _ in range(400):
        budget.give_back(0)
    assert not budget.is_empty
