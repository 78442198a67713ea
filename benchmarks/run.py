"""Runs the benchmarks, prints the table, writes the figures as JSON and draws the plots.

``python benchmarks/run.py --quick`` takes two minutes, all of it less than fifteen.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import ask
from plots import draw
from table import make_table

QUESTIONS = (
    "import_time",
    "decode_page",
    "status_gets",
    "walk_with_latency",
    "walk_a_million",
    "watch_tick",
    "bulk_rerun",
    "memory",
)
HOME = Path(__file__).parent
PLOTS = HOME.parent / "docs" / "_static" / "benchmarks"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="question", help=", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--results", type=Path, default=HOME / "results", help="where figures go")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="where plots go")
    arguments = parser.parse_args()
    unknown = set(arguments.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    return arguments


def describe_machine() -> dict[str, Any]:
    """What it was measured on."""
    packages = ("aiohttp", "attrs", "cattrs", "msgspec", "uvloop")
    return {
        "processor": find_processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def find_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    arguments = read_arguments()
    arguments.results.mkdir(parents=True, exist_ok=True)
    arguments.plots.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in arguments.questions or QUESTIONS:
        began = time.monotonic()
        result = ask(importlib.import_module(name).QUESTION, quick=arguments.quick)
        results[name] = result.to_json()
        print(make_table(results[name]))
        print(f"({time.monotonic() - began:.0f} s)\n", flush=True)
        draw(result, arguments.plots / f"{name}.svg")
    record = {
        "machine": describe_machine(),
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "quick": arguments.quick,
        "questions": results,
    }
    (arguments.results / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    # As the page docs/performance.md has them.
    tables = "\n".join(
        make_table(told, f"_static/benchmarks/{name}.svg") for name, told in results.items()
    )
    (arguments.results / "table.md").write_text(tables)


if __name__ == "__main__":
    main()
