"""May it be sent again, and when: the whole table, the waits, and the circuit breaker for outages."""

import heapq
import random
from itertools import count, pairwise
from math import log

import attrs
import backoff
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knowledgestack_async as ks
from knowledgestack_async._retry import CircuitBreaker, Fault, decide, fault_of
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
    429: Fault.LIMITED,
    499: Fault.DENIED,
    500: Fault.UNCERTAIN,
    501: Fault.ODD,
    502: Fault.UNCERTAIN,
    503: Fault.REFUSED,
    504: Fault.UNCERTAIN,
    505: Fault.ODD,
    506: Fault.UNCERTAIN,
    507: Fault.UNCERTAIN,
    508: Fault.UNCERTAIN,
    509: Fault.UNCERTAIN,
    510: Fault.UNCERTAIN,
    511: Fault.ODD,
    512: Fault.UNCERTAIN,
    520: Fault.UNCERTAIN,
    524: Fault.UNCERTAIN,
    529: Fault.UNCERTAIN,
    599: Fault.UNCERTAIN,
    600: Fault.ODD,
}


@pytest.mark.parametrize(("status", "fault"), BY_STATUS.items())
def test_a_status_is_its_kind_of_fault(status, fault):
    assert fault_of(Answer(status, {}, b'{"detail": "x", "code": "other"}')) is fault


def test_a_quota_refusal_is_a_fault_of_its_own():
    body = b'{"detail": "used up", "code": "quota_exceeded"}'
    assert fault_of(Answer(429, {}, body)) is Fault.QUOTA
    assert fault_of(Answer(503, {}, body)) is Fault.REFUSED


def test_a_5xx_that_nobody_knows_is_as_500_is():
    lasting = {
        status for status in range(500, 600) if fault_of(Answer(status, {}, b"")) is Fault.ODD
    }
    assert lasting == {501, 505, 511}
    kinds = {fault_of(Answer(status, {}, b"")) for status in {*range(500, 600)} - lasting - {503}}
    assert kinds == {Fault.UNCERTAIN}


# Whether it is sent again

AGAIN = {
    (Fault.NOT_SENT, True): True,
    (Fault.NOT_SENT, False): True,
    (Fault.REFUSED, True): True,
    (Fault.REFUSED, False): True,
    (Fault.LIMITED, True): True,
    (Fault.LIMITED, False): True,
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


@pytest.mark.parametrize(("drawn", "wait"), [(0.0, 0.0), (0.5, 0.25), (0.75, 0.375)])
def test_the_first_wait_is_jittered_in_full(drawn, wait):
    assert verdict(Fault.NOT_SENT, tries=1, drawn=drawn).wait == wait


@pytest.mark.parametrize(
    ("tries", "drawn", "wait"),
    [(2, 0.0, 0.5), (2, 0.5, 0.75), (3, 0.0, 1.0), (3, 0.5, 1.5), (3, 0.75, 1.75), (4, 0.0, 2.0)],
)
def test_from_the_second_retry_on_at_least_half_of_the_ceiling_is_waited(tries, drawn, wait):
    assert verdict(Fault.NOT_SENT, tries=tries, drawn=drawn).wait == wait


def test_all_tries_of_a_call_outlast_two_seconds_however_chance_draws():
    waits = [verdict(Fault.REFUSED, tries=tries, drawn=0.0).wait for tries in range(1, 5)]
    assert sum(waits) > 2 + 1


@settings(deadline=None)
@given(
    retry_after=st.floats(0, 200),
    tries=st.integers(1, 9),
    time_left=st.floats(-10, 0) | st.floats(1e-6, 200),
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
        if tries > 1:
            assert found.wait >= min(policy.ceiling(tries) / 2, time_left * 0.99)


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
        if tries > 1:
            assert found.wait >= min(policy.ceiling(tries) / 2, time_left * 0.99)


@pytest.mark.parametrize(
    ("drawn", "retry_after", "tries", "wait"),
    [
        (0.0, 8.0, 1, 8.0),
        (0.5, 8.0, 1, 8.25),
        (0.0, 8.0, 5, 9.0),
        (0.5, 8.0, 5, 9.5),
        # Nothing, or next to nothing, is no reason to hurry: then the ordinary delays hold.
        (0.5, 0.0, 1, 0.25),
        (0.5, 0.0, 5, 6.0),
        (0.5, 0.01, 5, 6.0),
        (0.0, 0.01, 5, 4.0),
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


# The circuit breaker

ROUTE, OTHER = "GET /one", "GET /other"
INTERVALS = [0.16, 0.256, 0.4096, 0.65536, 1.048576, 1.5, 1.5]
"""The seconds from the end of one probe to the next, where they fail at once."""


def opened(budget=3, now=0.0, route=ROUTE):
    """A breaker that has just let its first probe through."""
    breaker = CircuitBreaker(budget)
    while not breaker.is_open:
        assert breaker.may_retry(route, now)
    return breaker


def count_retries(breaker, now=0.0):
    """How many retries a closed breaker still lets through; the last one opens it."""
    retries = 0
    while not breaker.is_open:
        assert breaker.may_retry(ROUTE, now)
        retries += not breaker.is_open
    return retries


def test_a_breaker_opens_when_the_budget_is_used_up_and_lets_one_probe_through():
    breaker = CircuitBreaker(3)
    for _ in range(3):
        assert breaker.may_retry(ROUTE, 5.0)
        assert not breaker.is_open
        assert not (breaker.probe_of(ROUTE) is not None)
    assert breaker.may_retry(ROUTE, 5.0)
    assert breaker.is_open
    assert breaker.probe_of(ROUTE) is not None
    assert not breaker.may_retry(ROUTE, 5.0)
    assert not breaker.may_retry(ROUTE, 500.0)


def test_the_budget_is_what_it_is_made_with():
    assert [count_retries(CircuitBreaker(budget)) for budget in (0, 1, 20)] == [0, 1, 20]


def test_a_retry_that_succeeds_gives_its_token_back():
    breaker = CircuitBreaker(3)
    assert [breaker.may_retry(ROUTE, 0.0) for _ in range(3)] == [True] * 3
    breaker.succeeded(ROUTE, 2)
    assert count_retries(breaker) == 2


def test_a_call_that_is_withdrawn_gives_its_tokens_back():
    breaker = CircuitBreaker(3)
    assert [breaker.may_retry(ROUTE, 0.0) for _ in range(3)] == [True] * 3
    breaker.give_back(1)
    breaker.give_back(0)
    assert count_retries(breaker) == 1


def test_a_route_fails_after_eight_calls_in_a_row_that_were_given_up():
    breaker = CircuitBreaker(3)
    for _ in range(7):
        breaker.gave_up(ROUTE)
    assert not breaker.is_failing(ROUTE)
    breaker.gave_up(ROUTE)
    assert (breaker.is_failing(ROUTE), breaker.is_failing(OTHER)) == (True, False)
    assert not breaker.is_open
    breaker.succeeded(ROUTE, 0)
    breaker.gave_up(ROUTE)
    assert not breaker.is_failing(ROUTE)


@pytest.mark.parametrize(("successes", "retries"), [(0, 0), (9, 0), (11, 1), (21, 2)])
def test_a_success_at_the_first_try_gives_a_tenth_back(successes, retries):
    breaker = CircuitBreaker(3)
    assert [breaker.may_retry(ROUTE, 0.0) for _ in range(3)] == [True] * 3
    for _ in range(successes):  # floats: ten tenths may be a hair less than one
        breaker.succeeded(OTHER, 0)
    assert count_retries(breaker) == retries


def test_no_more_than_the_budget_is_ever_there():
    breaker = CircuitBreaker(3)
    breaker.give_back(1_000)
    breaker.succeeded(ROUTE, 1_000)
    assert count_retries(breaker) == 3


def test_while_it_is_open_one_probe_at_a_time_goes_and_the_time_between_them_grows():
    breaker, now = opened(), 0.0
    for interval in INTERVALS:
        assert breaker.probe_of(ROUTE) is not None
        breaker.failed(breaker.probe_of(ROUTE), now)
        assert not (breaker.probe_of(ROUTE) is not None)
        assert not breaker.may_retry(ROUTE, now)
        assert not breaker.may_retry(ROUTE, now + interval - 1e-6)
        now += interval + 1e-6
        assert breaker.may_retry(ROUTE, now)
        assert not breaker.may_retry(ROUTE, now + 60)
    assert breaker.is_open


def test_a_long_outage_is_probed_less_and_less_often():
    breaker, now, ends = opened(now=100.0), 100.0, []
    while now < 3700.0:
        breaker.failed(breaker.probe_of(ROUTE), now)
        ends.append(now)
        while not breaker.may_retry(ROUTE, now):
            now += 0.05
    between = [later - earlier for earlier, later in pairwise(ends)]
    for end, gap in zip(ends, between, strict=False):
        assert gap <= max(1.5, (end - 100) / 12) + 0.1
    assert max(between) > 200
    assert len(ends) <= 20 + 12 * log(3600 / 18)


@pytest.mark.parametrize(("took", "wait"), [(0.01, 0.16), (0.05, 0.16), (0.1, 0.3), (2.0, 6.0)])
def test_what_takes_long_to_fail_is_tried_less_often(took, wait):
    breaker = opened()
    breaker.failed(breaker.probe_of(ROUTE), took)
    assert not breaker.may_retry(ROUTE, took + wait - 1e-6)
    assert breaker.may_retry(ROUTE, took + wait + 1e-6)


@pytest.mark.parametrize("retries", [0, 1, 4])
@pytest.mark.parametrize("has_failed", [False, True])
def test_a_success_closes_it_and_fills_the_budget(retries, has_failed):
    breaker = opened()
    if has_failed:
        breaker.failed(breaker.probe_of(ROUTE), 1.0)
    breaker.succeeded(ROUTE, retries)
    assert not breaker.is_open
    assert not (breaker.probe_of(ROUTE) is not None)
    assert count_retries(breaker) == 3


def test_after_it_was_closed_an_outage_begins_anew():
    breaker, now = opened(), 0.0
    for interval in INTERVALS:
        breaker.failed(breaker.probe_of(ROUTE), now)
        now += interval + 1e-6
        assert breaker.may_retry(ROUTE, now)
    breaker.succeeded(ROUTE, 0)
    assert count_retries(breaker, now) == 3
    assert breaker.probe_of(ROUTE) is not None
    breaker.failed(breaker.probe_of(ROUTE), now)
    assert breaker.may_retry(ROUTE, now + INTERVALS[0] + 1e-6)


def test_nothing_but_a_success_closes_it():
    breaker = opened()
    breaker.failed(breaker.probe_of(ROUTE), 0.0)
    breaker.give_back(3)
    assert breaker.is_open
    assert not breaker.may_retry(ROUTE, 0.1)


def test_a_failure_that_no_probe_had_changes_nothing():
    breaker = CircuitBreaker(3)
    breaker.failed(breaker.probe_of(ROUTE), 0.0)
    assert count_retries(breaker) == 3
    breaker.failed(breaker.probe_of(OTHER), 0.0)
    assert breaker.probe_of(ROUTE) is not None
    breaker.failed(breaker.probe_of(ROUTE), 0.0)
    breaker.failed(breaker.probe_of(ROUTE), 0.1)  # a retry from before, which ends late
    assert breaker.may_retry(ROUTE, INTERVALS[0] + 1e-6)


def test_a_probe_that_ends_after_another_call_has_succeeded_opens_nothing():
    breaker = opened()
    breaker.succeeded(ROUTE, 0)
    breaker.failed(breaker.probe_of(ROUTE), 1.0)
    assert not breaker.is_open
    assert count_retries(breaker) == 3


def test_each_route_has_an_outage_of_its_own():
    breaker = opened()
    assert not breaker.may_retry(ROUTE, 0.0)
    assert breaker.may_retry(OTHER, 0.0)  # there is nothing left for it, so this is a probe, too
    assert breaker.probe_of(OTHER) is not None
    assert not breaker.may_retry(OTHER, 0.0)
    breaker.failed(breaker.probe_of(OTHER), 0.0)
    breaker.succeeded(ROUTE, 0)
    assert breaker.is_open
    assert not (breaker.probe_of(OTHER) is not None)
    assert not breaker.may_retry(OTHER, 0.0)
    assert breaker.may_retry(OTHER, INTERVALS[0] + 1e-6)
    breaker.succeeded(OTHER, 0)
    assert not breaker.is_open


def test_a_success_on_one_route_is_no_end_of_anothers_outage_and_gives_no_more_than_elsewhere():
    breaker = opened()
    for _ in range(11):
        breaker.succeeded(OTHER, 0)
    assert breaker.is_open
    assert breaker.may_retry(OTHER, 0.0)
    assert not (breaker.probe_of(OTHER) is not None)
    assert breaker.may_retry(OTHER, 0.0)
    assert breaker.probe_of(OTHER) is not None


def test_without_a_budget_every_retry_is_a_probe():
    breaker = CircuitBreaker(0)
    for now in (0.0, 10.0):
        assert not breaker.is_open
        assert breaker.may_retry(ROUTE, now)
        assert breaker.probe_of(ROUTE) is not None
        assert not breaker.may_retry(ROUTE, now)
        breaker.failed(breaker.probe_of(ROUTE), now)
        assert not breaker.may_retry(ROUTE, now + 0.1)
        assert breaker.may_retry(ROUTE, now + 0.2)
        breaker.succeeded(ROUTE, 1)
        breaker.give_back(5)


@attrs.define
class Call:
    """A call of the simulation."""

    began: float
    tries: int = 0
    held: int = 0
    retries: int = 0
    is_sent: bool = False
    is_probe: bool = False


def simulate(calls, fails, *, concurrency, chance, latency=0.05):
    """Calls that go through the policy and the breaker as a session's do, so many at a time.

    Returns:
        Requests a call, how many of the calls succeeded, and how many seconds all of it took.
    """
    breaker, numbers, left = CircuitBreaker(CircuitBreaker.BUDGET), count(), calls
    due, requests, succeeded, now = [], 0, 0, 0.0

    def put(seconds, call):
        heapq.heappush(due, (now + seconds, next(numbers), call))

    while due or left:
        while left and len(due) < concurrency:
            left -= 1
            put(0.0, Call(now))
        now, _, call = heapq.heappop(due)
        if call.is_sent:
            call.is_sent = False
            if not fails():
                breaker.succeeded(ROUTE, call.retries)
                succeeded += 1
                continue
            if call.is_probe:
                breaker.failed(breaker.probe_of(ROUTE), now)
                call.is_probe = False
        elif not call.tries or breaker.may_retry(ROUTE, now):
            call.is_probe = bool(call.tries) and (breaker.probe_of(ROUTE) is not None)
            call.retries += bool(call.tries) and not call.is_probe
            call.tries, call.is_sent, requests = call.tries + 1, True, requests + 1
            put(latency, call)
            continue
        else:
            call.held += 1
        found = decide(
            POLICY,
            Fault.REFUSED,
            idempotent=True,
            tries=call.tries + call.held,
            retry_after=None,
            time_left=call.began + POLICY.give_up_after - now,
            chance=chance,
        )
        if found.wait is not None:
            put(found.wait, call)
    return requests / calls, succeeded / calls, now


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("calls", "concurrency", "most"),
    [
        (1_000, 1_000, 1.04),
        (1_000, 100, 1.06),
        (10_000, 10_000, 1.01),
        (10_000, 1_000, 1.01),
        (10_000, 100, 1.01),
        (10_000, 20, 1.01),
    ],
)
def test_a_total_outage_costs_hardly_more_than_one_request_a_call(calls, concurrency, most):
    cost, succeeded, _ = simulate(
        calls, lambda: True, concurrency=concurrency, chance=random.Random(7)
    )
    assert 1 < cost <= most
    assert succeeded == 0


@pytest.mark.parametrize("concurrency", [1, 5, 20])
def test_where_few_calls_are_made_at_a_time_it_is_time_that_bounds_what_an_outage_costs(
    concurrency,
):
    calls = 1_000
    cost, succeeded, seconds = simulate(
        calls, lambda: True, concurrency=concurrency, chance=random.Random(7)
    )
    assert succeeded == 0
    probes = 18 / 1.5 + 6 + 12 * log(seconds / 18)
    assert (cost - 1) * calls <= CircuitBreaker.BUDGET + probes


@pytest.mark.parametrize("calls", [100, 1_000])
def test_in_an_outage_each_call_fails_in_the_time_of_its_own_tries(calls):
    seconds = simulate(calls, lambda: True, concurrency=calls, chance=random.Random(7))[2]
    assert seconds <= 0.5 + 1 + 2 + 4 + 5 * 0.05


@pytest.mark.no_cover
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("concurrency", [1, 20, 100])
def test_noise_of_a_tenth_is_overcome_at_little_cost(seed, concurrency):
    chance = random.Random(seed)
    cost, succeeded, _ = simulate(
        10_000, lambda: chance.random() < 0.1, concurrency=concurrency, chance=chance
    )
    assert succeeded >= 0.998
    assert 1.1 < cost <= 1.12
