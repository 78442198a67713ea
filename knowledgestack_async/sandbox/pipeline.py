"""How ingestions move on by the clock, without anything that runs in the background."""

from collections.abc import Mapping
from heapq import heappop, heappush
from random import Random

from attrs import define, evolve, field

from knowledgestack_async.sandbox.catalogue import Catalogue
from knowledgestack_async.sandbox.clock import Clock
from knowledgestack_async.sandbox.material import SECOND, engine_word, make_uuid, plan_run
from knowledgestack_async.sandbox.records import OPEN_STATUSES, Engine, Ingestion, Row, Stage

_SHOW_NEW_ROW = -1


@define(kw_only=True, eq=False)
class Pipeline:
    """The pipeline runs: what is due is caught up on by `settle`.

    Args:
        seed: Everything random derives from it.
        clock: The time.
        catalogue: The ingestions.
        outcomes: The weight of each final status.
        seconds: The shortest and the longest that a run takes, by the clock.
    """

    seed: int
    clock: Clock
    catalogue: Catalogue
    outcomes: Mapping[str, float]
    seconds: tuple[float, float]
    _due: list[tuple[int, int, int, int, Ingestion]] = field(
        init=False, factory=list[tuple[int, int, int, int, Ingestion]]
    )
    _scheduled: int = field(init=False, default=0)

    def now(self) -> int:
        """Return the clock's time in microseconds since 1970."""
        return round(self.clock.now() * SECOND)

    def start(
        self, ingestion: Ingestion, *, status: str = "pending", listed: Row | None = None
    ) -> None:
        """Begin a run.

        Args:
            ingestion: Whose.
            status: How far it has got already: ``pending`` or ``processing``.
            listed: The old row, if the list is to go on showing it.
        """
        ingestion.attempt += 1
        draws = self._draws(ingestion)
        plan = plan_run(draws, self.outcomes, self.seconds)
        reached = next(number for number, stage in enumerate(plan) if stage.status == status)
        began = self.now() - plan[reached].after
        ingestion.plan = plan
        ingestion.engine = Engine("RUNNING", began, None, make_uuid(draws))
        self.catalogue.write(ingestion, ingestion.row, listed)
        self._enter_stage(ingestion, reached)

    def hide(self, ingestion: Ingestion, seconds: float) -> None:
        """Let the list show the new run after so many seconds, and not before."""
        self._schedule(self.now() + round(seconds * SECOND), ingestion, _SHOW_NEW_ROW)

    def fix(
        self, ingestion: Ingestion, status: str, error: str | None, moment: int | None = None
    ) -> None:
        """Put an ingestion into a status for good; whatever was due for it is off.

        Args:
            ingestion: Which.
            status: Any word.
            error: The text that goes with it.
            moment: When it got there, in microseconds since 1970; by default now.
        """
        ingestion.attempt += 1
        moment = self.now() if moment is None else moment
        row, engine = ingestion.row, ingestion.engine
        is_open = status in OPEN_STATUSES
        if is_open and engine.close is not None:
            engine = Engine("RUNNING", moment, None, make_uuid(self._draws(ingestion)))
        if not is_open:
            word = engine_word(status)
            engine = evolve(engine, status=word, close=engine.close or moment)
        last_run = moment if status == "processing" else row.last_run
        ingestion.engine = engine
        fixed = evolve(row, status=status, error=error, last_run=last_run, last_update=moment)
        self.catalogue.write(ingestion, fixed, None)

    def settle(self) -> None:
        """Catch up on everything that is due by now."""
        now = self.now()
        while self._due and self._due[0][0] <= now:
            _, _, attempt, step, ingestion = heappop(self._due)
            if attempt != ingestion.attempt or not self.catalogue.holds(ingestion):
                continue
            if step == _SHOW_NEW_ROW:
                self.catalogue.write(ingestion, ingestion.row, None)
            else:
                self._enter_stage(ingestion, step)

    def _enter_stage(self, ingestion: Ingestion, step: int) -> None:
        plan, engine = ingestion.plan, ingestion.engine
        stage = plan[step]
        moment = engine.start + stage.after
        row = self._row(ingestion, stage, moment)
        if step + 1 < len(plan):
            self._schedule(engine.start + plan[step + 1].after, ingestion, step + 1)
        else:
            word = engine_word(stage.status)
            ingestion.engine = evolve(engine, status=word, close=moment)
        self.catalogue.write(ingestion, row, ingestion.listed)

    def _row(self, ingestion: Ingestion, stage: Stage, moment: int) -> Row:
        starts = stage.status == "processing" and ingestion.row.status != "processing"
        last_run = moment if starts else ingestion.row.last_run
        return Row(stage.status, stage.last_activity, stage.error, last_run, moment, stage.chunks)

    def _schedule(self, moment: int, ingestion: Ingestion, step: int) -> None:
        self._scheduled += 1
        heappush(self._due, (moment, self._scheduled, ingestion.attempt, step, ingestion))

    def _draws(self, ingestion: Ingestion) -> Random:
        # An ingestion's runs are the same whatever else was asked for in between.
        return Random((self.seed << 64) + (ingestion.sequence << 24) + ingestion.attempt)
