"""Time and memory of every stage from ten thousand to a million items: exponents say what grows faster than data.

    python recipes/speed/growth.py [--sizes 10000 100000 1000000] [--stages trie "LSA, fit"] [--largest 10000000]

A made catalog with ten events an item; each stage of each size runs in a process of its own, on one thread.
"""

from __future__ import annotations

import gc
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmark import SpeedArguments, one_thread, write_result
from growth_stages import AT_ANY_SIZE, STAGES
from made_catalog import EVENTS, MadeCatalog

from tiger.cli.common import friendly_errors
from tiger.training.arguments import parse_arguments

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class GrowthArguments(SpeedArguments):
    sizes: list[int] = field(default_factory=lambda: [10**4, 10**5, 10**6])
    stages: list[str] = field(default_factory=list, metadata={"help": "names of stages; default: all"})
    largest: int = field(default=0, metadata={"help": "one more size, for tokenizer, trie and search of codes alone"})
    one: str | None = field(default=None, metadata={"help": "measure one stage in this process: name:size"})


def main() -> None:
    (args,) = parse_arguments([GrowthArguments])
    one_thread()
    if args.one is not None:
        name, _, size = args.one.rpartition(":")
        print(json.dumps(measured(name, int(size))))
        return
    file = Path(args.results_dir) / "growth.json"
    rows = {row["stage"]: row for row in json.loads(file.read_text())["rows"]} if file.exists() else {}
    for name in args.stages or STAGES:
        found: dict[str, list[dict]] = {}
        for size in args.sizes + ([args.largest] if args.largest and name in AT_ANY_SIZE else []):
            for step, one in in_a_process(name, size).items():
                found.setdefault(step, []).append({"items": size} | one)
        for step, of_sizes in found.items():
            rows[step] = {"stage": step, "sizes": of_sizes, **exponents(of_sizes)}
            print(
                step,
                *(f"{row['items']:,}: {row.get('cpu_seconds')} s, {row.get('peak_mib')} MiB;" for row in of_sizes),
            )
        what = (
            f"a made catalog, {EVENTS} events an item; CPU seconds on one thread, peak memory above what went before"
        )
        write_result(args, "growth", {"dataset": "made", "what": what, "rows": list(rows.values())})
    draw(list(rows.values()), Path(args.results_dir) / "growth.png")


def in_a_process(name: str, size: int) -> dict[str, dict]:
    """Results of :func:`measured` in a process of its own, by step, or why there are none."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", f"{name}:{size}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {name: {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]}}
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, size: int) -> dict[str, dict]:
    """CPU seconds and peak memory of a stage's steps; what the first one reads is made before."""
    steps = STAGES[name](MadeCatalog(size))
    named = {f"{name}, {step}": run for step, run in steps.items()} if isinstance(steps, dict) else {name: steps}
    return {step: measured_step(run) for step, run in named.items()}


def measured_step(run: Callable[[], object]) -> dict:
    gc.collect()
    before = start_of_peak()
    cpu = time.process_time()
    result = run()
    seconds = time.process_time() - cpu
    found = {"cpu_seconds": round(seconds, 4), "peak_mib": round(peak() - before)}
    return found | {"process_peak_mib": round(peak())} | (result if isinstance(result, dict) else {})


def start_of_peak() -> float:
    """Begin a new peak where the system allows it; MiB in use now."""
    try:
        RESET.write_text("5")
        return _status("VmRSS")
    except OSError:
        return peak()


def peak() -> float:
    """The most memory that this process has held, MiB."""
    if STATUS.exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(name: str) -> float:
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith(name))


def exponents(found: list[dict]) -> dict[str, float]:
    """Slopes of time and memory over items on logarithmic axes: 1 is linear, 0 flat."""
    slopes = {}
    for key, least in (("cpu_seconds", 1e-3), ("peak_mib", 1.0)):
        points = [(math.log(row["items"]), math.log(max(row[key], least))) for row in found if key in row]
        if len(points) > 1:
            slopes[f"exponent of {key}"] = round(float(np.polyfit(*zip(*points), 1)[0]), 2)
    return slopes


def draw(rows: list[dict], file: Path) -> None:
    """A line per stage, the costliest on top: a dot for each number of items, at its seconds and at its memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (("cpu_seconds", "CPU seconds", 1e-5), ("peak_mib", "peak memory, MiB (0: left out)", 1.0))
    ordered = sorted(rows, key=lambda row: max((one.get("cpu_seconds", 0) for one in row["sizes"]), default=0))
    sizes = sorted({one["items"] for row in rows for one in row["sizes"]})
    colors = dict(zip(sizes, pyplot.get_cmap("viridis_r")(np.linspace(0.15, 1, len(sizes)))))
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 1.5 + 0.24 * len(ordered)), sharey=True)
    for axis, (key, title, least) in zip(axes, panels):
        for place, row in enumerate(ordered):
            points = [(one[key], one["items"]) for one in row["sizes"] if one.get(key, 0) >= least]
            if points:
                values = [value for value, _ in points]
                axis.plot([min(values), max(values)], [place, place], color="0.8", zorder=1)
                axis.scatter(values, [place] * len(points), c=[colors[size] for _, size in points], s=36, zorder=2)
        axis.set_xscale("log")
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(ordered)), [row["stage"] for row in ordered], fontsize=8)
    axes[0].margins(y=0.02)
    for size in sizes:
        axes[0].scatter([], [], color=colors[size], label=f"{size:,}")
    axes[0].legend(title="items", fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    with friendly_errors():
        main()
