"""Many runners killed, one spool."""

from runner_kills import add_noise, check_nothing_is_lost, kill_runners

from knowledgestack_async.sandbox import Sandbox


async def test_killed_at_fifty_random_points_no_outcome_is_lost(tmp_path):
    async with Sandbox(ingestions=0, runs=0) as sandbox:
        add_noise(sandbox)
        await kill_runners(sandbox, tmp_path, kills=50, lanes=3, seed=50)
        decided = await check_nothing_is_lost(sandbox, tmp_path)
    print(f"{decided} outcomes decided")
    assert decided > 300
