"""A runner that is killed: does the runs that it is told, on a spool, and logs what is on the disk."""

import asyncio
import json
import os
import random
import signal
import sys

import knowledgestack_async as ks
from knowledgestack_async._spool import Spool
from knowledgestack_async.api.reporting import report_outcome

job = json.loads(sys.argv[1])
log = os.open(job["log"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
real_put, real_drop = Spool.put, Spool.drop


async def put(self, entry):
    kept, was_there = await real_put(self, entry)
    os.write(log, json.dumps([kept.run_id, kept.status, kept.error]).encode() + b"\n")
    die_if(job["dies"] == "decided")
    return kept, was_there


async def drop(self, entry):
    die_if(job["dies"] == "delivered")
    return await real_drop(self, entry)


def die_if(is_time):
    if is_time:
        os.kill(os.getpid(), signal.SIGKILL)


async def execute(session, run_id, seconds):
    await asyncio.sleep(seconds)
    async with report_outcome(session, run_id, spool=job["spool"]):
        if int(run_id[0], 16) % 2:
            raise ValueError(f"no good: {run_id}")


async def main():
    Spool.put, Spool.drop = put, drop
    retry = ks.RetryPolicy(tries=50, base_delay=0.01)
    async with ks.Session(job["api_key"], job["base_url"], retry=retry) as session:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        work = (
            execute(session, run_id, random.random() * job["seconds"]) for run_id in job["runs"]
        )
        await asyncio.gather(*work, return_exceptions=True)


asyncio.run(main())
