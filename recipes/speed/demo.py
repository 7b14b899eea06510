"""Time that `make demo` takes, step by step, to recipes/results/speed/demo.json.

    python recipes/speed/demo.py [--dataset datasets/demo --out runs/speed/demo]

CPU seconds are those of the process and all that it started; wall seconds depend on what else the machine does. The
shop is made first, then `tiger train` runs as in the Makefile, from nothing.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import SpeedArguments, write_result

from tiger.training.arguments import parse_arguments
from tiger.utils.json_files import read_json


@dataclass
class DemoArguments:
    dataset: str = field(default="datasets/demo", metadata={"help": "where the shop goes"})
    out: str = field(default="runs/speed/demo", metadata={"help": "where the run goes; what is there is removed"})
    recipe: str = field(default="recipes/demo", metadata={"help": "the recipe that is timed"})
    results_dir: str = field(default="recipes/results/speed", metadata={"help": "where the JSON file goes"})


def main() -> None:
    (args,) = parse_arguments([DemoArguments])
    shutil.rmtree(args.out, ignore_errors=True)
    shop = timed([sys.executable, "data/demo.py", "--out", args.dataset])[""]
    command = [sys.executable, "-m", "tiger.cli", "train", args.dataset, "--out", args.out, "--recipe", args.recipe]
    steps = {"shop": shop} | timed(command)
    steps["loading and report"] = steps.pop("")
    total = {kind: round(sum(one[kind] for one in steps.values()), 1) for kind in ("cpu_seconds", "wall_seconds")}
    results = read_json(Path(args.out) / "test.json")
    found = {name: results[name] for name in ("recall@10", "ndcg@10")}
    content = {"recipe": args.recipe} | total | {"load_average": os.getloadavg()[1], "steps": steps, "test": found}
    write_result(SpeedArguments(args.dataset, results_dir=args.results_dir), "demo", content)


def timed(command: list[str]) -> dict[str, dict[str, float]]:
    """CPU and wall seconds of a command by the steps that it names; what comes before and after them under ``""``."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
    marks, step = {"": [0.0, 0.0]}, ""
    assert process.stderr is not None  # a pipe was asked for
    cpu, at = 0.0, began
    for line in process.stderr:
        sys.stderr.write(line)
        if named := re.match(r"step \d+ of \d+: (.*?)(?=,|$)|report: ", line):
            now = _cpu_seconds(process.pid), time.monotonic()
            marks[step] = [marks[step][0] + now[0] - cpu, marks[step][1] + now[1] - at]
            (cpu, at), step = now, named[1] or ""
            marks.setdefault(step, [0.0, 0.0])
    if process.wait():
        sys.exit(process.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    marks[step] = [marks[step][0] + whole - cpu, marks[step][1] + time.monotonic() - at]
    return {name: {"cpu_seconds": round(one, 1), "wall_seconds": round(two, 1)} for name, (one, two) in marks.items()}


def _cpu_seconds(process: int) -> float:
    """User and system time of a process and of its children that have ended (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
