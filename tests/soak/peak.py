"""How much memory a program takes at most, in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys

_TELL = """
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


async def peak_of(program: str, *arguments: str) -> float:
    """Run it; gives its peak in MiB.

    The kernel's count for the process begins anew with the program (``VmHWM``); what ``getrusage`` says
    begins with the memory of whoever started it.
    """
    command = [sys.executable, "-c", program + _TELL, *arguments]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    assert child.returncode == 0
    return int(output.split()[-1]) / 1024
