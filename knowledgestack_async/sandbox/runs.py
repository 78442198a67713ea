"""The workflow runs of the sandbox."""

import hashlib
import hmac
from heapq import heappop, heappush
from random import Random

from attrs import define, field

from knowledgestack_async.sandbox.clock import Clock
from knowledgestack_async.sandbox.material import SECOND, make_people, make_uuid
from knowledgestack_async.sandbox.records import ConflictError, NotFoundError, Run

_PARTS = (
    "run",
    "parent",
    "tenant",
    "source",
    "instruction",
    "output",
    "template",
    "inputs_folder",
    "inputs",
    "outputs_folder",
    "outputs",
    "discussions_folder",
    "discussions",
    "thread",
)


@define(kw_only=True, eq=False)
class RunBook:
    """All runs, by id.

    Args:
        seed: Everything random derives from it.
        clock: The sandbox's time.
        watchdog: Whether a RUNNING run fails once it is older than its own limit.
    """

    seed: int
    clock: Clock
    watchdog: bool = False
    _runs: dict[str, Run] = field(init=False, factory=dict[str, Run])
    _due: list[tuple[int, str]] = field(init=False, factory=list[tuple[int, str]])
    _draws: Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._draws = Random(f"{self.seed}:runs")

    def ids(self) -> list[str]:
        """Return the ids of all runs, oldest first."""
        return list(self._runs)

    def add(
        self,
        status: str = "PENDING",
        *,
        max_run_duration_seconds: int = 3600,
        has_template: bool = True,
    ) -> Run:
        """Make a run.

        Args:
            status: PENDING, NOT_STARTED, RUNNING, COMPLETED or FAILED.
            max_run_duration_seconds: The limit in its snapshot, which the watchdog knows.
            has_template: Whether its snapshot names a template.

        Returns:
            The run.
        """
        now = self._now()
        started = status not in {"PENDING", "NOT_STARTED"}
        run_id = make_uuid(self._draws)
        run = Run(
            id=run_id,
            workflow_definition_id=make_uuid(self._draws),
            workflow_name=f"Weekly digest {len(self._runs) + 1}",
            triggered_by=self._draws.choice(make_people(Random(self.seed))),
            status=status,
            created=now - 60 * SECOND,
            updated=now,
            started=now - 30 * SECOND if started else None,
            completed=now if status in {"COMPLETED", "FAILED"} else None,
            error="The runner stopped with exit code 137" if status == "FAILED" else None,
            token="ksrun_" + self._sign(run_id),
            max_run_duration_seconds=max_run_duration_seconds,
            has_template=has_template,
            parts={part: make_uuid(self._draws) for part in _PARTS},
        )
        self._runs[run_id] = run
        self._watch(run)
        return run

    def get(self, run_id: str) -> Run:
        """Return a run as it is now.

        Raises:
            NotFoundError: There is none with this id.
        """
        self._settle()
        try:
            return self._runs[run_id]
        except KeyError:
            raise NotFoundError(f"Workflow run {run_id} not found") from None

    def delete(self, run_id: str, *, running: bool = False) -> None:
        """Remove a run's record.

        Args:
            run_id: Which.
            running: Whether it may go while it is RUNNING.

        Raises:
            NotFoundError: There is none with this id.
            ConflictError: It is running.
        """
        run = self.get(run_id)
        if run.status == "RUNNING" and not running:
            raise ConflictError("run_busy", f"Workflow run {run_id} is running")
        del self._runs[run_id]

    def start(self, run_id: str) -> Run:
        """Mark a run as RUNNING.

        Raises:
            NotFoundError: There is none with this id.
            ConflictError: It is finished.
        """
        run = self.get(run_id)
        if run.is_finished:
            raise ConflictError("conflict", f"Workflow run {run_id} is finished")
        run.status, run.started = "RUNNING", self._now()
        run.updated = run.started
        self._watch(run)
        return run

    def finish(self, run_id: str, status: str, error: str | None = None) -> bool:
        """Settle a run's outcome, once.

        Args:
            run_id: Which.
            status: COMPLETED or FAILED.
            error: Why it failed; left out where it completed.

        Returns:
            Whether this changed anything; a finished run stays as it is.

        Raises:
            NotFoundError: There is none with this id.
        """
        run = self.get(run_id)
        if run.is_finished:
            return False
        self._finish(run, status, error if status == "FAILED" else None, self._now())
        return True

    def newest(self, status: str) -> Run | None:
        """Return the run that was added last among those of a status."""
        self._settle()
        return next((run for run in reversed(self._runs.values()) if run.status == status), None)

    def _finish(self, run: Run, status: str, error: str | None, moment: int) -> None:
        run.status, run.error = status, error
        run.started = run.started or moment
        run.completed = run.updated = moment

    def _watch(self, run: Run) -> None:
        if self.watchdog and run.status == "RUNNING" and run.started is not None:
            heappush(self._due, (run.started + run.max_run_duration_seconds * SECOND, run.id))

    def _settle(self) -> None:
        now = self._now()
        while self._due and self._due[0][0] <= now:
            moment, run_id = heappop(self._due)
            run = self._runs.get(run_id)
            if run is not None and run.status == "RUNNING":
                limit = run.max_run_duration_seconds
                self._finish(run, "FAILED", f"The run took longer than {limit} seconds", moment)

    def _sign(self, run_id: str) -> str:
        return hmac.new(str(self.seed).encode(), run_id.encode(), hashlib.sha256).hexdigest()[:32]

    def _now(self) -> int:
        return round(self.clock.now() * SECOND)
