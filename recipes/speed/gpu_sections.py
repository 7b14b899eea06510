"""Sections of the benchmark on a GPU, run one after the other so that none costs another its figures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark import SpeedArguments, write_result

# In the order of what is wanted most; what compiles comes last.
SECTIONS = (
    "search",
    "graphs",
    "options",
    "recommend",
    "training",
    "service",
    "prefixes",
    "trie",
    "rqvae",
    "compiled",
)
# For an H100, the paper's T5, 50 beams and bfloat16, by arithmetic before anything was measured.
ESTIMATES = {
    "search": "one user 4 to 5 ms; 45,000 to 60,000 users a second at 1,024",
    "graphs": "one user 1.5 ms at most; 100,000 users a second with graphs and fused norms, which there are not",
    "recommend": "22,363 users, as many as Beauty has, in under 1 s",
    "training": "80,000 to 120,000 targets a second with full attention, 400,000 shared",
}


@dataclass
class GPUArguments(SpeedArguments):
    device: str = "cuda"
    small: bool = field(default=False, metadata={"help": "tiny sizes, to see that everything runs"})
    seconds: float = field(default=400.0, metadata={"help": "begin no further section after so many"})
    section_seconds: float = field(default=120.0, metadata={"help": "stop a section after so many"})
    resume: bool = field(default=False, metadata={"help": "add to the results that are there"})
    sections: list[str] = field(default_factory=lambda: list(SECTIONS))
    beams: int = 50
    batches: list[int] = field(default_factory=lambda: [1, 64, 1024, 4096])
    catalog: int = field(default=12_101, metadata={"help": "items, as many as Beauty has"})
    users: int = field(default=22_363, metadata={"help": "for recommend(), as many as Beauty has"})
    items: int = field(default=10_000_000, metadata={"help": "of the large trie"})
    vectors: int = field(default=1_000_000, metadata={"help": "embeddings for the RQ-VAE"})
    steps: int = field(default=200, metadata={"help": "of the RQ-VAE"})
    requests: int = field(default=2000, metadata={"help": "to the service"})
    targets: int = field(default=2048, metadata={"help": "of a training batch"})

    def shrink(self) -> None:
        self.batches, self.catalog, self.users, self.items = [1, 8], 300, 40, 2000
        self.vectors, self.steps, self.targets, self.beams, self.requests = 600, 3, 64, 10, 4


def run_sections(args: GPUArguments, bench: Any, what: str) -> None:
    """Run each section, a method of ``bench``; results are written after each.

    What a section has raised is told in ``could_not_run``, those for which no time is left as well.
    """
    began = time.perf_counter()
    found: dict[str, Any] = {"what": what}
    failed: list[str] = []
    if args.resume:
        before = json.loads(Path(args.results_dir, "gpu.json").read_text())
        found |= {name: part for name, part in before.items() if name in SECTIONS}
        failed += before.get("could_not_run", [])
    for at, name in enumerate(args.sections):
        left = args.seconds - (time.perf_counter() - began)
        if left < 0:
            failed.append(f"{name}: no time left")
            continue
        try:
            found[name] = measured(bench, name)
            print(name, found[name], flush=True)
        except Exception as error:  # the sections that follow are worth having
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}"[:300])
        write_result(args, "gpu", found | ({"could_not_run": failed} if failed else {}))
        if not is_usable(args.device):
            go_on_in_a_fresh_process(args.sections[at + 1 :], args.seconds - (time.perf_counter() - began))
            return
    write_result(args, "gpu", found | ({"could_not_run": failed} if failed else {}))


def measured(bench: Any, name: str) -> dict:
    """A section's figures, seconds, peak of memory and estimate."""
    on_gpu = bench.args.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with at_most(bench.args.section_seconds):
        part = getattr(bench, name)()
    part["seconds"] = round(time.perf_counter() - start, 1)
    if on_gpu:
        part["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return part | ({"estimate": ESTIMATES[name]} if name in ESTIMATES else {})


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError: it has taken longer, as soon as Python runs again."""

    def stop(*unused) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_usable(device: str) -> bool:
    """Whether the device still computes: after an illegal access, a process's every later call fails."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2
    except RuntimeError:
        return False


def go_on_in_a_fresh_process(sections: list[str], seconds: float) -> None:
    if sections:
        words = ["--resume", "true", "--seconds", str(max(0, round(seconds))), "--sections", *sections]
        subprocess.run([sys.executable, *sys.argv, *words], check=False)
