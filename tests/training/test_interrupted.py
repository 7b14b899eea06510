"""Ctrl-C at two moments of `tiger train`, which then goes on; what it says, and nothing else."""

import signal
import time

from tests.processes import Started, run_python
from tests.training.test_pipeline import ROOT, SIZES, SMALL, changes
from tests.training.test_report import write_log
from tiger.data.dataset import RecommendationData


def test_an_interrupted_command_goes_on(tmp_path):
    dataset, out = write_log(tmp_path / "data", repeats=0.0), tmp_path / "run"
    saves = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5, "save_steps": 5, "max_steps": 25}
    settings = SMALL | {"retriever": {k: v for k, v in SIZES.items() if k != "disable_tqdm"} | saves}
    words = [f"{step}.{key}={value}" for step, options in settings.items() for key, value in options.items()]
    command = ["-m", "tiger.cli", "train", str(dataset), "--out", str(out), "--set", *words]

    def interrupted(ready) -> str:
        with Started(command, ROOT) as process:
            began = time.monotonic()
            while not ready():
                assert process.poll(0.01) is None and time.monotonic() - began < 300
            process.send_signal(signal.SIGINT)
            done = process.finished()
        assert done.returncode == 130 and not done.stdout and "Traceback" not in done.stderr, done.stderr[-3000:]
        assert done.stderr.endswith("\ninterrupted: the same command goes on from here\n")
        return done.stderr

    # While the T5 is trained, after its first checkpoint.
    interrupted(
        lambda: list(out.glob("training/checkpoint-*/trainer_state.json")) and (out / "training/run.json").exists()
    )
    assert not (out / "model").exists()
    tokenizer = changes(out / "tokenizer")
    # While the second stage is made: the T5 is finished.
    interrupted(
        lambda: (out / "training/run.json").exists() and '"finished": true' in (out / "training/run.json").read_text()
    )
    trained = changes(out / "training")
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert changes(out / "tokenizer") == tokenizer and changes(out / "training") == trained
    assert "is there" in done.stderr and "is a finished run" in done.stderr

    # Stories, one table, and how to go on; no dicts, no warnings, no progress bars of files that are read.
    last = done.stdout.splitlines()
    assert done.stdout.count("recommended:") == 3 and done.stdout.count("R@10    N@10") == 1
    names = [line.split()[0] for line in last[last.index("".join(x for x in last if "R@10" in x)) + 1 :][:8]]
    counted = [f"{name}-with-validation" for name in ("hybrid", "memory", "tiger", "two-stage")]
    assert names == ["popularity", "transition", "content", "hybrid", *counted]
    ids = " ".join(RecommendationData.load(dataset).item_ids[:2])
    assert f"saved to {out / 'model'}; try: tiger recommend {out / 'model'} --history {ids}" in last[-1]
    assert "try:" not in done.stderr and not list(out.glob(".run.lock*"))
    assert "{" not in done.stderr and "Loading weights" not in done.stderr and "Warning" not in done.stderr
    assert f"report: {out / 'report.html'}" in done.stderr

    # Once more, and nothing is left to do.
    before = changes(out / "model")
    again = run_python(*command, "--json")
    assert "has the results of this model" in again.stderr and changes(out / "model") == before
