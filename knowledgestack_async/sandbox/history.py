"""The ingestions of the past that a sandbox starts with, made in full only where one looks."""

from collections.abc import Mapping, Sequence
from random import Random

from attrs import define

from knowledgestack_async.sandbox.material import (
    SECOND,
    apportion,
    as_uuid,
    engine_word,
    explain,
    make_document_name,
    make_uuid,
    make_workflow_id,
)
from knowledgestack_async.sandbox.records import OPEN_STATUSES, Engine, Ingestion, Row, User

_DIGITS = 64


@define(kw_only=True, eq=False)
class History:
    """What is settled at once about each past ingestion, oldest first, and how to make the rest.

    Args:
        seed: What the rest derives from.
        people: Who uploaded them.
        seconds: The shortest and the longest that a pipeline run took.
        workflow_ids: Their ids.
        version_ids: The ids of their document versions.
        statuses: Their pipeline statuses.
        created: When they were uploaded, in microseconds since 1970.
    """

    seed: int
    people: Sequence[User]
    seconds: tuple[float, float]
    workflow_ids: Sequence[str]
    version_ids: Sequence[str]
    statuses: Sequence[str]
    created: Sequence[int]

    def make(self, sequence: int) -> Ingestion:
        """Make the ingestion with this sequence number."""
        draws = Random((self.seed << 64) + (sequence << 24))
        created = self.created[sequence]
        row, engine = _remember(draws, self.statuses[sequence], created, self.seconds)
        return Ingestion(
            sequence=sequence,
            workflow_id=self.workflow_ids[sequence],
            document_id=make_uuid(draws),
            document_version_id=self.version_ids[sequence],
            document_name=make_document_name(draws, sequence),
            uploader=self.people[sequence % len(self.people)],
            created=created,
            row=row,
            engine=engine,
        )


def invent_history(
    seed: int,
    count: int,
    statuses: Mapping[str, float],
    *,
    people: Sequence[User],
    seconds: tuple[float, float],
    now: int,
) -> History:
    """Make up the past.

    Args:
        seed: Everything random derives from it.
        count: How many ingestions.
        statuses: The share of each pipeline status, kept exactly.
        people: Who uploaded them.
        seconds: The shortest and the longest that a pipeline run took.
        now: The end of the past, in microseconds since 1970.
    """
    draws = Random(f"{seed}:history")
    words = [word for word, number in apportion(count, statuses).items() for _ in range(number)]
    draws.shuffle(words)
    digits = draws.randbytes(count * _DIGITS // 2).hex()
    starts = range(0, count * _DIGITS, _DIGITS)
    newest = now - round(seconds[1] * SECOND)
    return History(
        seed=seed,
        people=people,
        seconds=seconds,
        workflow_ids=[make_workflow_id(digits[start : start + 32]) for start in starts],
        version_ids=[as_uuid(digits[start + 32 : start + 64]) for start in starts],
        statuses=words,
        created=[
            newest - (count - number) * 90 * SECOND + int(draws.random() * 60 * SECOND)
            for number in range(count)
        ],
    )


def _remember(
    draws: Random, status: str, created: int, seconds: tuple[float, float]
) -> tuple[Row, Engine]:
    if status in OPEN_STATUSES:
        row = Row(status, None, None, created, None, None)
        return row, Engine("RUNNING", created, None, make_uuid(draws))
    length = int(draws.uniform(*seconds) * SECOND)
    chunks = draws.randint(8, 400)
    activity = "Finished" if status == "completed" else "Embedding the chunks"
    ended = created + length
    row = Row(status, activity, explain(draws, status), created + length // 5, ended, chunks)
    return row, Engine(engine_word(status), created, ended, make_uuid(draws))
