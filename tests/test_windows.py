"""Windows on a changing list: how they are planned, and when two of them prove their boundary."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowledgestack_async import WalkError
from knowledgestack_async._windows import Memory, Plan, Seam, Window, plan_window

SIZES = st.integers(1, 100).map(lambda size: range(max(1, size * 4 // 5), size + 1))


def window(items, total=1_000, start=0, size=None, *, by_number=False):
    names = items.split() if isinstance(items, str) else items
    return Window(names, total, start, len(names) if size is None else size, by_number)


def seam():
    return Seam(str)


def took(seam_, window_, planned=None, *, read_after=True):
    plan = planned or Plan(window_.start, window_.size)
    return seam_.take(window_, plan, read_after=read_after)


# Plans


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 200), SIZES, st.booleans())
def test_a_plan_is_what_can_be_asked_for_and_goes_on(reach, overlap, sizes, by_number):
    plan = plan_window(reach, overlap, sizes, by_number=by_number)
    assert plan.size in sizes
    assert 0 <= plan.start <= reach < plan.end
    if by_number:
        assert plan.start % plan.size == 0
    elif overlap < sizes[-1]:
        assert plan == Plan(max(0, reach - overlap), sizes[-1])


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 60))
def test_page_numbers_overlap_as_asked_wherever_a_size_allows_it(reach, overlap):
    sizes = range(80, 101)
    latest = max(0, reach - overlap)
    plan = plan_window(reach, overlap, sizes, by_number=True)
    ends = [latest - latest % size + size for size in sizes]
    if max(ends) > reach:
        assert plan.start <= latest
        assert plan.end == max(ends)


def test_one_item_of_overlap_can_be_had_everywhere():
    for reach in range(1, 10_000):
        assert plan_window(reach, 1, range(80, 101), by_number=True).start < reach


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 100), st.integers(0, 100))
def test_a_server_that_allows_one_size_is_asked_for_the_page_that_holds_the_next_item(
    reach, size, overlap
):
    plan = plan_window(reach, overlap, range(size, size + 1), by_number=True)
    assert plan.size == size
    assert plan.start <= reach < plan.end


def test_a_window_of_one_cannot_overlap():
    assert plan_window(7, 1, range(1, 2), by_number=False) == Plan(7, 1)
    assert plan_window(7, 1, range(1, 2), by_number=True) == Plan(7, 1)


@pytest.mark.parametrize(("by_number", "most"), [(True, 1.17), (False, 1.02)])
def test_overlapping_costs_about_a_seventh_more_requests_with_page_numbers(by_number, most):
    reach, requests = 0, 0
    while reach < 100_000:
        plan = plan_window(reach, 1, range(80, 101), by_number=by_number)
        assert plan.start < reach or reach == 0
        reach = plan.end
        requests += 1
    assert 1_000 < requests <= most * 1_000


def test_a_window_knows_where_it_ends():
    assert window("a b c", total=9, start=4).end == 7
    assert not window("a b c", total=8, start=4).is_last
    assert window("a b c", total=7, start=4).is_last
    assert window("", total=0, size=20).is_last


# Joining


def test_the_front_always_joins():
    assert seam().joins(window("a b"), read_after=False)


@pytest.mark.parametrize("read_after", [True, False])
def test_windows_that_share_an_item_join(read_after):
    walk = seam()
    took(walk, window("a b c"))
    assert walk.joins(window("c d e", start=500), read_after=read_after)


def test_windows_that_share_nothing_join_only_when_read_one_after_the_other():
    walk = seam()
    took(walk, window("a b c"))
    assert walk.joins(window("d e", start=3), read_after=True, overlaps=False)
    assert not walk.joins(window("d e", start=3), read_after=True)
    assert not walk.joins(window("d e", start=3), read_after=False)
    assert not walk.joins(window("d e", start=4), read_after=True, overlaps=False)


def test_windows_with_hidden_rows_join_by_their_places():
    walk = seam()
    took(walk, window("a b", size=3))
    assert walk.joins(window("d", start=3, size=3), read_after=True)
    assert not walk.joins(window("d", start=4, size=3), read_after=True)


@pytest.mark.parametrize(
    ("total", "start", "joins"), [(998, 1, True), (998, 2, False), (999, 2, True)]
)
def test_what_was_removed_meanwhile_is_allowed_for(total, start, joins):
    walk = seam()
    took(walk, window("a b c", total=1_000))
    shown = window("d", total=total, start=start)
    assert walk.joins(shown, read_after=True, overlaps=False) is joins


def test_what_came_in_meanwhile_pushes_the_rest_back_and_loses_nothing():
    walk = seam()
    took(walk, window("a b c", total=1_000))
    assert walk.reach_in(1_500) == 3
    assert walk.reach_in(999) == 2
    assert walk.reach_in(1) == 0


def test_before_the_first_window_nothing_was_read():
    assert seam().reach_in(10) == 0


# Taking


def test_only_what_was_not_given_yet_is_taken():
    walk = seam()
    assert took(walk, window("a b c")) == ["a", "b", "c"]
    assert took(walk, window("b c d e", start=1)) == ["d", "e"]
    assert took(walk, window("e f", start=4)) == ["f"]
    assert (walk.reach, walk.total, walk.given) == (6, 1_000, 6)


def test_an_id_that_is_there_twice_hides_nothing_that_was_not_given_yet():
    walk = seam()
    took(walk, window("a b c"))
    assert took(walk, window("c d e b f", start=2)) == ["d", "e", "f"]


def test_a_server_that_repeats_itself_within_a_window_gives_nothing_twice():
    assert took(seam(), window("a b a c b")) == ["a", "b", "c"]


def test_a_window_read_ahead_that_lies_behind_moves_nothing():
    walk = seam()
    took(walk, window("a b c d e f"))
    assert took(walk, window("b c", total=7, start=1), read_after=False) == []
    assert (walk.reach, walk.total) == (6, 1_000)
    assert took(walk, window("b c", total=7, start=1), read_after=True) == []
    assert (walk.reach, walk.total) == (3, 7)


def test_a_walk_goes_on_where_another_stopped():
    walk = seam()
    walk.restore(40, 90, ["a", "b"], 40)
    assert (walk.reach, walk.total) == (40, 90)
    assert walk.shares(window("x b c", start=38))
    assert not walk.shares(window("x", start=38))
    assert took(walk, window("x b c", start=38)) == ["c"]
    assert (walk.reach, walk.given) == (41, 41)


def test_of_an_id_that_is_there_twice_the_one_that_follows_its_neighbour_is_the_place():
    walk = seam()
    walk.restore(4, 90, ["a", "b", "c"], 3)
    assert took(walk, window("x c y a b c d", start=0)) == ["d"]


def test_where_none_of_the_last_ids_is_left_the_distance_from_the_end_decides():
    walk = seam()
    walk.restore(40, 90, ["a", "b"], 40)
    walk.go_by_place(80)
    assert (walk.reach, walk.total, walk.is_resumed) == (30, 80, False)
    assert took(walk, window("x y c", total=80, start=28)) == ["c"]


# Ends


@pytest.mark.parametrize(
    ("items", "total", "size", "is_end"),
    [
        ("a b c", 3, 5, True),
        ("a b c", 3, 3, False),  # a total that ends where a full page does proves nothing
        ("a b c", 2, 5, False),  # the page shows more
        ("a b c", 0, 5, False),
        ("a b c", 9, 5, False),
        ("a b c", 5, 5, False),  # two of them are hidden, or the total is wrong
        ("", 0, 5, True),
    ],
)
def test_an_end_is_believed_where_all_items_are_accounted_for(items, total, size, is_end):
    walk = seam()
    shown = window(items, total=total, size=size)
    took(walk, shown)
    assert walk.is_end(shown, got_any=bool(items)) is is_end


def test_a_window_past_the_end_that_shows_nothing_proves_the_end():
    walk = seam()
    shown, past = window("a b c", total=3, size=3), window([], total=3, start=3, size=3)
    took(walk, shown)
    assert not walk.is_end(shown, got_any=True)
    assert walk.joins(past, read_after=True)
    took(walk, past)
    assert walk.is_end(past, got_any=False)


def test_a_quiet_list_of_full_pages_that_gave_too_few_is_read_again():
    walk = seam()
    shown, past = window("a b a c", total=4, size=4), window([], total=4, start=4, size=4)
    for begins_again in (True, True, True, False):
        took(walk, shown)
        walk.is_end(shown, got_any=False)
        took(walk, past)
        assert walk.is_end(past, got_any=False) is not begins_again
        assert (walk.reach == 0) is begins_again


# Sense


def test_empty_pages_before_the_end_are_an_error_soon():
    walk = seam()
    for number in range(99):
        took(walk, window([], total=10**9, start=100 * number, size=100))
    with pytest.raises(WalkError, match="100 pages in a row, up to item 10000, were empty"):
        took(walk, window([], total=10**9, start=9_900, size=100))


def test_a_walk_that_gets_no_further_is_an_error_soon():
    walk = seam()
    took(walk, window("a b"))
    for _ in range(28):
        walk.miss()
    with pytest.raises(WalkError, match="changes faster than it can be read: 29 pages"):
        walk.miss()


def test_an_empty_page_now_and_then_is_none():
    walk = seam()
    for round_ in range(9):
        took(walk, window([], start=0, size=2))
        took(walk, window([], start=2, size=2))
        took(walk, window([f"item-{round_}"], start=4, size=2))


def test_empty_pages_at_the_end_are_none():
    walk = seam()
    for _ in range(9):
        took(walk, window([], total=0, size=100))
    assert walk.reach == 100


def test_a_server_that_answers_the_same_whatever_is_asked_is_an_error_soon():
    walk = seam()
    took(walk, window("a b"))
    for start in (2, 4, 6, 8):
        took(walk, window("a b"), Plan(start, 2))
    with pytest.raises(WalkError, match="from 0 on, whatever is asked"):
        took(walk, window("a b"), Plan(10, 2))


def test_a_stray_window_now_and_then_is_none():
    walk = seam()
    took(walk, window("a b"))
    for number in range(9):
        took(walk, window("a b"), Plan(2, 2))
        took(walk, window("a b"), Plan(0, 2))
        took(walk, window(["b", f"c-{number}"], start=1), Plan(2, 2))


# Memory


def test_the_memory_stays_flat_and_long_enough():
    memory = Memory(["first"])
    assert memory.known(["other", "first", "another"]) == [False, True, False]
    assert memory.known([]) == []
    for number in range(0, 30_000, 100):
        memory.add({str(id_): None for id_ in range(number, number + 100)})
        held = len(memory._newer) + len(memory._older)
        assert held <= 10_000
        oldest = max(0, number + 100 - 5_000)
        for one in (oldest, number + 99):
            assert memory.known([str(one), "new"]) == [True, False]
    assert memory.known(["first"]) == [False]
    assert memory.edge == [str(number) for number in range(24_800, 25_000)]
