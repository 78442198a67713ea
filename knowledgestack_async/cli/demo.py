"""``ks-async demo``: failed ingestions are found, run again, and watched until they are done."""

from __future__ import annotations

import asyncio

import click

import knowledgestack_async as ks

from .commands import Command
from .exits import Exit
from .many import Fan
from .options import Options, pass_options
from .screen import Screen
from .story import Story, teller_for
from .text import count_words

__all__ = ["demo"]

LOOK_AGAIN_AFTER = 0.25
"""Seconds between two looks at the list."""

_ON_YOUR_OWN = "ks-async ingestions rerun --status failed --wait --yes"
"""One command: a wait of its own might see the runs that failed before."""

_OUTCOMES = {"completed": 0.95, "failed": 0.05}


@click.command(cls=Command, example="ks-async demo")
@click.option(
    "--ingestions",
    type=click.IntRange(min=10),
    metavar="N",
    default=500,
    show_default=True,
    help="How many there are.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    default=8.0,
    show_default=True,
    help="How long a rerun takes at most.",
)
@pass_options
def demo(options: Options, ingestions: int, seconds: float) -> Exit:
    """Watch the main job, against a sandbox.

    The failed ones of 500 ingestions are found, run again, and watched until they are done,
    while one answer of twenty goes wrong. It takes less than 20 seconds, and needs no key
    and no server.
    """
    return _sum_up(options.screen, asyncio.run(_tell(options.screen, ingestions, seconds)))


async def _tell(screen: Screen, ingestions: int, seconds: float) -> Story:
    from knowledgestack_async.sandbox import Fault, Sandbox  # noqa: PLC0415 - slow, seldom used

    sandbox = Sandbox(
        ingestions=ingestions,
        dialect="system-jobs",
        pipeline_seconds=(seconds / 4, seconds),
        rerun_outcomes=_OUTCOMES,
        latency=0.02,
        record=False,
    )
    sandbox.faults.add(Fault("status", status=503, probability=0.05))
    async with sandbox, sandbox.session() as session:
        story = Story(session, total=ingestions)
        async with teller_for(screen, story).telling():
            await _play(session, story)
    return story


async def _play(session: ks.Session, story: Story) -> None:
    story.begin("Finding the failed ones")
    async for summary in ks.iter_ingestion_workflows(session, status="failed"):
        story.failed[summary.workflow_id] = summary
    story.begin("Running them again")
    fan = Fan(list(story.failed), lambda id_: ks.rerun_ingestion_workflow(session, id_))
    async with fan:
        async for outcome in fan.outcomes():
            story.note_rerun(outcome.id, outcome.error)
    story.begin("Watching them until they are done")
    while story.is_going_on:
        async for summary in ks.iter_ingestion_workflows(session):
            story.note_state(summary)
        await asyncio.sleep(LOOK_AGAIN_AFTER)
    story.end()


def _sum_up(screen: Screen, story: Story) -> Exit:
    stats = story.session.stats
    screen.out("")
    screen.say(
        f"{len(story.failed):,} of {story.total:,} ingestions had failed and were run again: "
        f"{count_words(story.now.values()).replace('failed', 'failed again')}."
    )
    if story.refused:
        screen.say(f"{story.refused:,} could not be run again.")
    screen.say(
        f"{stats.requests:,} requests in {story.steps[-1].ended:.1f} s; {stats.retries:,} answers were 503, "
        "and those requests were sent again."
    )
    screen.out("")
    screen.out("The same for your own, with KS_API_KEY and KS_BASE_URL set:")
    screen.out(f"  {_ON_YOUR_OWN}")
    return Exit.DONE
