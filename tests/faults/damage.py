"""Damage that nobody meant: bits flipped, files cut short, gone, changed for others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.faults import subjects as made
from tests.faults.subjects import MODELS, Subjects
from tests.faults.trying import LOST, RIGHT, WRONG, Fault, Plan, copied
from tiger.recommender.recommender import TigerRecommender
from tiger.training.run_record import RunRecord

TARGETS = (
    ["model"] * 5
    + ["owner's files", "tokenizer", "tokenizer", "tokenizer"]
    + ["checkpoint"] * 2
    + ["run.json", "batch output", "batch parts"]
)
WAYS = ["flip", "flip", "flip", "flips", "cut", "zeros", "empty", "gone", "swap", "another's", "stray"]


def hurt(random: Random, folder: Path, other: Path | None, only: Path | None = None) -> str:
    """Damage one file of a folder.

    Args:
        other: a folder of the same kind, from which a file may come.
        only: the file to damage; None: any.

    Returns:
        What was done.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if only is None else [only]
    file, way = random.choice(files), random.choice(WAYS)
    if way in ("another's", "stray") and other is not None:
        return _bring(random, folder, other, stray=way == "stray")
    if way == "swap" and len(files) > 1:
        second = random.choice([path for path in files if path != file])
        first, content = file.read_bytes(), second.read_bytes()
        file.write_bytes(content)
        second.write_bytes(first)
        return f"{file.relative_to(folder)} and {second.relative_to(folder)} swapped"
    content = bytearray(file.read_bytes())
    if way == "gone" or not content:
        file.unlink()
        return f"{file.relative_to(folder)} gone"
    if way == "cut":
        content = content[: random.randrange(len(content))]
    elif way == "empty":
        content = bytearray()
    elif way == "zeros":
        start = random.randrange(len(content))
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    else:
        way = "flip" if way != "flips" else way
        for _ in range(1 if way == "flip" else 5):
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)
    return f"{file.relative_to(folder)} {way}"


def _bring(random: Random, folder: Path, other: Path, stray: bool) -> str:
    """A file of another folder in place of this one's, or one more."""
    names = [path.relative_to(other) for path in sorted(other.rglob("*")) if path.is_file()]
    there = [name for name in names if (folder / name).exists() != stray]
    name = random.choice(there or names)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(other / name, folder / name)
    return f"{name} of another"


def plan(random: Random, subjects: Subjects) -> Plan:
    """One piece of damage to one of the folders that the library writes."""
    target = random.choice(TARGETS)
    name = random.choice(MODELS)
    kinds: dict[str, Callable[[Path], str]] = {
        "model": lambda folder: _model(random, subjects, name, folder),
        "owner's files": lambda folder: _saved_over(random, subjects, name, folder),
        "tokenizer": lambda folder: _tokenizer(random, subjects, folder),
        "checkpoint": lambda folder: _checkpoint(random, subjects, folder),
        "run.json": lambda folder: _record(random, subjects, folder),
        "batch output": lambda folder: _batch(random, subjects, folder, finished=True),
        "batch parts": lambda folder: _batch(random, subjects, folder, finished=False),
    }
    return Plan(target, name if target == "model" else "", kinds[target])


def _same(found: str, expected: str, change: str) -> str:
    if found != expected:
        raise Fault(WRONG, change)
    return RIGHT


def _model(random: Random, subjects: Subjects, name: str, folder: Path) -> str:
    base = subjects.folder / "models"
    model = copied(base / name, folder / "model")
    other = random.choice([f"{name}-other", *(one for one in MODELS if one != name)])
    change = hurt(random, model, base / other)
    print(change, flush=True)
    return _same(made.answers(TigerRecommender.from_pretrained(model)), subjects.answers[name], change)


def _saved_over(random: Random, subjects: Subjects, name: str, folder: Path) -> str:
    """A save over a damaged recommender, whose manifest may not say any more which files are its own."""
    model = copied(subjects.folder / "models" / name, folder / "model")
    change = hurt(random, model, None, only=random.choice([model / "tiger.json", None]))
    made.give_owner_files(model)
    print(change, flush=True)
    try:
        TigerRecommender.from_pretrained(subjects.folder / "models" / f"{name}-other").save_pretrained(model)
    except FileExistsError:  # without a manifest it is no recommender's folder
        assert not (model / "tiger.json").exists()
    else:
        _same(made.answers(TigerRecommender.from_pretrained(model)), subjects.answers[f"{name}-other"], change)
    if lost := made.owner_files_lost(model):
        raise Fault(LOST, f"{change}: {lost}")
    return RIGHT


def _tokenizer(random: Random, subjects: Subjects, folder: Path) -> str:
    name = random.choice(["tokenizer", "tokenizer-alone"])
    copy = copied(subjects.folder / name, folder / "tokenizer")
    other = subjects.folder / name.replace("tokenizer", "tokenizer-other")
    change = hurt(random, copy, other)
    print(change, flush=True)
    return _same(made.tokenizer_answers(copy), subjects.answers[name], f"{name}: {change}")


def _checkpoint(random: Random, subjects: Subjects, folder: Path) -> str:
    run = copied(subjects.folder / "run", folder / "run")
    record = json.loads((run / "run.json").read_text())
    del record["sha256"]  # as an older version wrote it
    (run / "run.json").write_text(json.dumps(record | {"finished": False}))
    if random.random() < 0.7:  # there is something left to train
        shutil.rmtree(run / "checkpoint-6")
    checkpoints = sorted(run.glob("checkpoint-*"))
    damaged = random.choice(checkpoints)
    change = f"{damaged.name}: {hurt(random, damaged, subjects.folder / 'run' / 'checkpoint-2')}"
    print(change, flush=True)
    return _same(made.train(run), subjects.answers["run"], change)


def _record(random: Random, subjects: Subjects, folder: Path) -> str:
    run = copied(subjects.folder / "run", folder / "run")
    expected = json.loads((run / "run.json").read_text())
    change = hurt(random, run, None, only=run / "run.json")
    print(change, flush=True)
    record = RunRecord(run, made.SETTINGS)
    if not (run / "run.json").exists():
        return RIGHT if not record.finished else WRONG
    return RIGHT if record.finished and record._earlier == expected["seconds"] else WRONG


def _batch(random: Random, subjects: Subjects, folder: Path, finished: bool) -> str:
    tiger = TigerRecommender.from_pretrained(subjects.folder / "models" / "codes")
    os.link(subjects.folder / "log.parquet", folder / "log.parquet")
    out = folder / "out.parquet"
    if finished:
        shutil.copyfile(subjects.folder / "out.parquet", out)
        change = hurt(random, folder, None, only=out)
    else:
        change = hurt(random, copied(subjects.folder / ".half.parquet.parts", folder / ".out.parquet.parts"), None)
    print(change, flush=True)
    made.write_batch(tiger, folder)
    return _same(made.batch_answers(out), subjects.answers["batch"], change)
