"""Count what the library does when files are damaged, processes killed, disks full and requests hostile.

`python -m tests.faults.chaos`, or `make chaos`. Each try runs in a process of its own, forked from one that has
imported everything, under limits of time and memory; its random numbers depend on the seed, its kind and its number
alone, so that it can be made again: `--kind damage --only 17`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from tests.faults import crafting, damage, full_disks, hostile_requests, killing, pairs
from tests.faults.subjects import Subjects, make_subjects
from tests.faults.trying import OUTCOMES, REFUSED, REPORTED, RIGHT, Limits, Plan, outcome_of, source

KINDS: dict[str, Callable[[Random, Subjects], Plan]] = {
    "crafted": crafting.plan,
    "damage": damage.plan,
    "kill": killing.plan,
    "disk": full_disks.plan,
    "two-process": pairs.plan,
    "service": hostile_requests.plan,
}
SHARES = {"crafted": 300, "damage": 400, "kill": 300, "disk": 250, "two-process": 120, "service": 130}


@dataclass
class Counts:
    """Outcomes by kind and target, and every fault."""

    by_target: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str, list[int]]]:
        """A row for each target, each kind and all: kind, target, counts in the order of ``OUTCOMES``."""
        targets = sorted({(kind, target) for kind, target, _ in self.by_target}, key=lambda one: (_place(one[0]), one))
        rows = [
            (kind, target, [self.by_target[kind, target, outcome] for outcome in OUTCOMES]) for kind, target in targets
        ]
        found = []
        for kind in dict.fromkeys(kind for kind, _ in targets):
            own = [row for row in rows if row[0] == kind]
            found += own + [(kind, "all", _sum(own))]
        return [*found, ("all", "all", _sum(rows))]

    def markdown(self) -> str:
        """The rows as a table."""
        lines = ["| kind | of | tries | " + " | ".join(OUTCOMES) + " |", "|" + "---|" * (len(OUTCOMES) + 3)]
        lines += [f"| {kind} | {of} | {sum(row)} | {' | '.join(map(str, row))} |" for kind, of, row in self.rows()]
        return "\n".join(lines) + "\n"


def _place(kind: str) -> int:
    return list(KINDS).index(kind)


def _sum(rows: list[tuple[str, str, list[int]]]) -> list[int]:
    return [sum(column) for column in zip(*(row for _, _, row in rows))] if rows else [0] * len(OUTCOMES)


def campaign(
    tries: Iterable[tuple[str, int]], seed: int, subjects: Subjects, limits: Limits, seconds: float, told: bool = False
) -> Counts:
    """Make tries and count what comes of them.

    Args:
        tries: kinds and numbers.
        seconds: after which no further try begins.
        told: print each try, not only the faults.
    """
    counts, began = Counts(), time.monotonic()
    for kind, number in tries:
        if time.monotonic() - began > seconds:
            print(f"stopped before {kind} {number}: {seconds:g} s have passed")
            break
        plan = KINDS[kind](source(seed, kind, number), subjects)
        with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
            outcome, text = outcome_of(plan, Path(scratch) / "try", limits)
            output = (Path(scratch) / "try.output").read_text(errors="replace")[-2000:]
        counts.by_target[kind, plan.target, outcome] += 1
        line = f"{kind} {number}: {plan.target} {plan.what}: {outcome}: {text}"
        if outcome not in (REFUSED, RIGHT, REPORTED):
            counts.faults.append(line)
            print(output, flush=True)
        elif outcome == REPORTED:
            counts.reported.append(line)
        if outcome not in (REFUSED, RIGHT) or told:
            print(line + (f"\n{output}" if told else ""), flush=True)
    return counts


def warmed(folder: Path) -> Subjects:
    """The subjects; all that is imported or made on first use is there for the processes to come."""
    torch.set_num_threads(1)
    subjects = make_subjects(folder)
    killing.measure(subjects)
    return subjects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="default: all")
    parser.add_argument("--tries", type=int, default=sum(SHARES.values()), help="in all, divided among the kinds")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of tries of one --kind")
    parser.add_argument("--seconds", type=float, default=60, help="of one try; more is a hang")
    parser.add_argument("--memory", type=int, default=4 << 30, help="bytes of one try")
    parser.add_argument("--limit", type=float, default=3600, help="seconds in all")
    parser.add_argument("--out", type=Path, help="folder for counts.json and counts.md")
    args = parser.parse_args()
    kinds = args.kind or list(KINDS)
    if args.only is not None:
        if len(kinds) > 1:
            parser.error("--only needs one --kind")
        tries = [(kinds[0], number) for number in args.only]
    else:
        whole = sum(SHARES[kind] for kind in kinds)
        tries = [(kind, number) for kind in kinds for number in range(-(-args.tries * SHARES[kind] // whole))]
    began, cpu = time.monotonic(), os.times()
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        subjects = warmed(Path(scratch))
        told = args.only is not None
        counts = campaign(tries, args.seed, subjects, Limits(args.seconds, args.memory), args.limit, told)
    used = sum(os.times()[:4]) - sum(cpu[:4])
    print(counts.markdown() + f"\n{time.monotonic() - began:.0f} s, {used:.0f} s of processors")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "counts.md").write_text(counts.markdown())
        rows = [{"kind": kind, "of": of} | dict(zip(OUTCOMES, row)) for kind, of, row in counts.rows()]
        content = {
            "seed": args.seed,
            "tries": len(tries),
            "counts": rows,
            "faults": counts.faults,
            "reported": counts.reported,
        }
        (args.out / "counts.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(1 if counts.faults else 0)


if __name__ == "__main__":
    main()
