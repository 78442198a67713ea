"""A sorted index over the sequence numbers of ingestions, cheap to change and to page through."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import chain

_BUCKET = 512


class SequenceIndex:
    """A sorted set of sequence numbers, kept in buckets of neighbouring numbers.

    Adding, removing and finding the n-th of 100,000 take microseconds.
    """

    __slots__ = ("_buckets", "_length")

    def __init__(self, sequences: Iterable[int] = ()) -> None:
        """Fill the index.

        Args:
            sequences: What is in it from the beginning.
        """
        self._buckets: list[list[int]] = []
        self._length = 0
        for sequence in sequences:
            self.add(sequence)

    def __len__(self) -> int:
        return self._length

    def add(self, sequence: int) -> None:
        """Put a number in that is not in yet."""
        number = sequence // _BUCKET
        while len(self._buckets) <= number:
            self._buckets.append([])
        insort(self._buckets[number], sequence)
        self._length += 1

    def remove(self, sequence: int) -> None:
        """Take a number out that is in."""
        self._buckets[sequence // _BUCKET].remove(sequence)
        self._length -= 1

    def within(self, number: int, window: range) -> list[int]:
        """Return the numbers of one bucket that lie in a window."""
        if number >= len(self._buckets):
            return []
        bucket = self._buckets[number]
        if window.start <= number * _BUCKET and (number + 1) * _BUCKET <= window.stop:
            return bucket
        return bucket[bisect_left(bucket, window.start) : bisect_left(bucket, window.stop)]


def select(
    indexes: Sequence[SequenceIndex],
    window: range,
    start: int,
    size: int,
    *,
    oldest_first: bool = False,
) -> tuple[list[int], int]:
    """Read a slice out of several indexes that share no number, as if they were one.

    Args:
        indexes: What to read.
        window: Only numbers in here count.
        start: How many to skip.
        size: How many to give at most.
        oldest_first: Ascending rather than descending.

    Returns:
        The numbers, and how many there are in all.
    """
    numbers = range(window.start // _BUCKET, -(-window.stop // _BUCKET))
    picked: list[int] = []
    total = 0
    for number in numbers if oldest_first else reversed(numbers):
        parts = [index.within(number, window) for index in indexes]
        length = sum(map(len, parts))
        if total + length > start and len(picked) < size:
            merged = sorted(chain.from_iterable(parts), reverse=not oldest_first)
            skipped = max(0, start - total)
            picked += merged[skipped : skipped + size - len(picked)]
        total += length
    return picked, total
