"""The sandbox's database and workflow engine: plain, synchronous, usable without a server."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from random import Random

from attrs import define, field

from knowledgestack_async.sandbox.catalogue import Catalogue
from knowledgestack_async.sandbox.clock import Clock, RunningClock
from knowledgestack_async.sandbox.history import invent_history
from knowledgestack_async.sandbox.material import (
    explain,
    make_document_name,
    make_people,
    make_uuid,
    make_workflow_id,
)
from knowledgestack_async.sandbox.pipeline import Pipeline
from knowledgestack_async.sandbox.records import (
    OPEN_STATUSES,
    ConflictError,
    Engine,
    Filters,
    Ingestion,
    Row,
    Run,
    User,
    to_moment,
)
from knowledgestack_async.sandbox.runs import RunBook

_NO_FILTERS = Filters()


@define(kw_only=True, eq=False)
class Store:
    """Ingestions, newest first, and runs.

    Nothing happens in the background: each access first catches up on what is due by the clock.

    Args:
        seed: Everything random derives from it.
        clock: The time.
        rerun_outcomes: The weight of each final status of the runs that start in here.
        pipeline_seconds: The shortest and the longest that a pipeline run takes, by the clock.
        stale_after_rerun: For how many seconds after a rerun the list shows the previous outcome.
        run_watchdog: Whether a RUNNING run fails once it is older than its own limit.

    Attributes:
        people: The users that own what is in here.
        runs: The workflow runs.
    """

    seed: int = 0
    clock: Clock = field(factory=RunningClock)
    rerun_outcomes: Mapping[str, float] = field(factory=lambda: {"completed": 1.0})
    pipeline_seconds: tuple[float, float] = (2.0, 8.0)
    stale_after_rerun: float = 0.0
    run_watchdog: bool = False
    runs: RunBook = field(init=False)
    people: Sequence[User] = field(init=False)
    _draws: Random = field(init=False)
    _catalogue: Catalogue = field(init=False, factory=Catalogue)
    _pipeline: Pipeline = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._draws = Random(f"{self.seed}:ingestions")
        self.people = make_people(Random(self.seed))
        self.runs = RunBook(seed=self.seed, clock=self.clock, watchdog=self.run_watchdog)
        self._pipeline = Pipeline(
            seed=self.seed,
            clock=self.clock,
            catalogue=self._catalogue,
            outcomes=self.rerun_outcomes,
            seconds=self.pipeline_seconds,
        )

    def __len__(self) -> int:
        return len(self._catalogue)

    def get(self, workflow_id: str) -> Ingestion:
        """Return an ingestion as it is now.

        Raises:
            NotFoundError: There is none with this id.
        """
        self._pipeline.settle()
        return self._catalogue.get(workflow_id)

    def get_version(self, document_version_id: str) -> Ingestion:
        """Return the ingestion of a document version as it is now.

        Raises:
            NotFoundError: There is none.
        """
        self._pipeline.settle()
        return self._catalogue.get_version(document_version_id)

    def ids(self, *statuses: str) -> Sequence[str]:
        """Return the ids of all ingestions that the list shows with these statuses, newest first.

        Args:
            statuses: Which; none means all.
        """
        found, _ = self.list(0, len(self), Filters(statuses=frozenset(statuses)))
        return [ingestion.workflow_id for ingestion in found]

    def add_ingestion(
        self,
        status: str | None = None,
        *,
        error: str | None = None,
        workflow_id: str | None = None,
        document_name: str | None = None,
        created_at: datetime | None = None,
    ) -> Ingestion:
        """Let a new upload arrive at the front of the list.

        Args:
            status: What it is and stays; by default a pipeline run starts for it.
            error: The text that goes with the status; by default one is made up where it fits.
            workflow_id: Its id, if one is wanted in particular.
            document_name: The same for its name.
            created_at: The same for its time; where that is not later than all others, just later.

        Returns:
            The ingestion.

        Raises:
            ConflictError: The id is taken.
        """
        self._pipeline.settle()
        created = self._pipeline.now() if created_at is None else to_moment(created_at)
        if workflow_id in self._catalogue:
            raise ConflictError("conflict", f"Workflow {workflow_id} exists")
        ingestion = self._make(created, workflow_id, document_name)
        self._catalogue.enter(ingestion)
        if status is None:
            self._pipeline.start(ingestion)
        else:
            text = explain(self._draws, status) if error is None else error
            self._pipeline.fix(ingestion, status, text)
        return ingestion

    def remove_ingestion(self, workflow_id: str) -> None:
        """Take an ingestion out of the list; the rest closes the gap.

        Raises:
            NotFoundError: There is none with this id.
        """
        self._catalogue.leave(self.get(workflow_id))

    def set_status(self, workflow_id: str, status: str, error: str | None = None) -> None:
        """Put an ingestion into a status, where it stays until something else is asked of it.

        Args:
            workflow_id: Which.
            status: Any word, known or not.
            error: The text that goes with it.

        Raises:
            NotFoundError: There is none with this id.
        """
        self._pipeline.fix(self.get(workflow_id), status, error)

    def set_superseded(self, workflow_id: str, superseded: bool = True) -> None:
        """Say whether a newer version of the document has taken an ingestion's place.

        Raises:
            NotFoundError: There is none with this id.
        """
        self._catalogue.supersede(self.get(workflow_id), superseded)

    def set_bulk_refusal(self, workflow_id: str, reason: str | None) -> None:
        """Make a rerun in bulk refuse an ingestion.

        Args:
            workflow_id: Which.
            reason: Such as ``forbidden`` or ``unsupported_document_type``; None takes it back.

        Raises:
            NotFoundError: There is none with this id.
        """
        self.get(workflow_id).bulk_refusal = reason

    def rerun(self, workflow_id: str, *, superseded: bool = False) -> Ingestion:
        """Start an ingestion's pipeline again.

        Args:
            workflow_id: Which.
            superseded: Whether one that a newer version has superseded is taken too.

        Raises:
            NotFoundError: There is none with this id.
            ConflictError: A run is under way, or a newer version supersedes this one.
        """
        ingestion = self.get(workflow_id)
        if ingestion.superseded and not superseded:
            raise ConflictError("superseded", "A newer version of the document supersedes this one")
        if ingestion.is_open:
            raise ConflictError("in_progress_workflow", f"Workflow {workflow_id} is in progress")
        if self.stale_after_rerun > 0:
            self._pipeline.start(ingestion, listed=ingestion.shown)
            self._pipeline.hide(ingestion, self.stale_after_rerun)
        else:
            self._pipeline.start(ingestion)
        return ingestion

    def cancel(self, workflow_id: str) -> Ingestion:
        """Cancel the run that is under way.

        Raises:
            NotFoundError: There is none with this id.
            ConflictError: It is finished.
        """
        ingestion = self.get(workflow_id)
        if not ingestion.is_open:
            raise ConflictError("conflict", f"Workflow {workflow_id} is finished")
        self._pipeline.fix(ingestion, "cancelled", None)
        return ingestion

    def seed_ingestions(
        self, count: int, statuses: Mapping[str, float], superseded: float = 0.0
    ) -> None:
        """Fill an empty store with ingestions of the past.

        Args:
            count: How many.
            statuses: The share of each pipeline status, kept exactly. Those that are pending or
                processing are in a run that has just begun.
            superseded: The share of the completed ones that a newer version has superseded; at
                least one if it is above zero.

        Raises:
            ValueError: The store isn't empty, or the shares make no sense.
        """
        if self._catalogue.created:
            raise ValueError("only an empty store can be given a past")
        history = invent_history(
            self.seed,
            count,
            statuses,
            people=self.people,
            seconds=self.pipeline_seconds,
            now=self._pipeline.now(),
        )
        self._catalogue.load(history)
        for workflow_id, status in zip(history.workflow_ids, history.statuses, strict=True):
            if status in OPEN_STATUSES:
                self._pipeline.start(self._catalogue.get(workflow_id), status=status)
        completed = Filters(statuses=frozenset({"completed"}))
        _, total = self.list(0, 0, completed)
        wanted = min(total, math.ceil(superseded * total))
        for place in self._draws.sample(range(total), wanted):
            self.list(place, 1, completed)[0][0].superseded = True

    def add_run(self, status: str = "PENDING", *, max_run_duration_seconds: int = 3600) -> Run:
        """Make a run; see `RunBook.add`."""
        return self.runs.add(status, max_run_duration_seconds=max_run_duration_seconds)

    def get_run(self, run_id: str) -> Run:
        """Return a run as it is now; see `RunBook.get`."""
        return self.runs.get(run_id)

    def delete_run(self, run_id: str, *, running: bool = False) -> None:
        """Remove a run's record; see `RunBook.delete`."""
        self.runs.delete(run_id, running=running)

    def callback(self, run_id: str, status: str, error: str | None = None) -> bool:
        """Settle a run's outcome, once; see `RunBook.finish`."""
        return self.runs.finish(run_id, status, error)

    def list(
        self,
        start: int = 0,
        size: int = 20,
        filters: Filters = _NO_FILTERS,
        *,
        oldest_first: bool = False,
    ) -> tuple[Sequence[Ingestion], int]:
        """Return one page.

        Args:
            start: How many to skip.
            size: How many to give at most.
            filters: What to narrow the list to.
            oldest_first: Oldest upload first rather than newest.

        Returns:
            The items, and how many there are on all pages.
        """
        self._pipeline.settle()
        return self._catalogue.page(filters, start, size, oldest_first=oldest_first)

    def _make(
        self, created: int, workflow_id: str | None = None, name: str | None = None
    ) -> Ingestion:
        others = self._catalogue.created
        sequence = len(others)
        created = max(created, others[-1] + 1) if others else created
        return Ingestion(
            sequence=sequence,
            workflow_id=workflow_id or make_workflow_id(self._draws.randbytes(16).hex()),
            document_id=make_uuid(self._draws),
            document_version_id=make_uuid(self._draws),
            document_name=name or make_document_name(self._draws, sequence),
            uploader=self.people[sequence % len(self.people)],
            created=created,
            row=Row("pending", None, None, created, None, None),
            engine=Engine("RUNNING", created, None, make_uuid(self._draws)),
        )
