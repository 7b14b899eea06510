"""Processes that are killed at a random moment: what they wrote is whole, old or new, and the next one goes on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults import subjects as made
from tests.faults.subjects import MODELS, NEW, Subjects
from tests.faults.trying import LOST, RIGHT, TRACEBACK, WRONG, Fault, Plan, copied, forked, told, wait
from tiger.cli.main import main as cli
from tiger.recommender.recommender import TigerRecommender
from tiger.utils import files
from tiger.utils.errors import DataError


@dataclass(frozen=True)
class Operation:
    """Something that writes.

    Args:
        prepare: makes its folder.
        run: what may be ended at any moment; it is called again afterwards.
        read: what the folder answers; a ``DataError`` where there is nothing yet.
        before, after: what it may answer before and after ``run``.
        owner: whether the folder that is written holds files of its owner.
    """

    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    read: Callable[[Path], str]
    before: str | None
    after: str
    owner: Path | None = None


def operation(subjects: Subjects, name: str, model: str) -> Operation:
    """One of ``OPERATIONS``."""
    base = subjects.folder
    loaded = {
        one: TigerRecommender.from_pretrained(base / "models" / one)
        for one in ({"save": [f"{model}-other"], "batch": ["codes"]}.get(name, []))
    }

    def prepare_model(folder: Path) -> None:
        made.give_owner_files(copied(base / "models" / model, folder / "model"))
        pq.write_table(
            pa.table({"item_id": [NEW[0]], "title": ["Folding camp lantern"], "brand": ["Nowhere"]}),
            folder / "new.parquet",
        )

    def read_model(folder: Path) -> str:
        return made.answers(TigerRecommender.from_pretrained(folder / "model"))

    if name == "save":
        return Operation(
            prepare_model,
            lambda folder: loaded[f"{model}-other"].save_pretrained(folder / "model"),
            read_model,
            subjects.answers[model],
            subjects.answers[f"{model}-other"],
            Path("model"),
        )
    if name == "items add":
        return Operation(
            prepare_model,
            lambda folder: cli(["items", "add", str(folder / "model"), str(folder / "new.parquet")]),
            read_model,
            subjects.answers[model],
            subjects.answers.get(f"{model}-added", ""),
            Path("model"),
        )
    if name == "batch":
        return Operation(
            lambda folder: os.link(base / "log.parquet", folder / "log.parquet"),
            lambda folder: made.write_batch(loaded["codes"], folder),
            lambda folder: made.batch_answers(folder / "out.parquet"),
            None,
            subjects.answers["batch"],
        )
    if name == "tokenizer":
        tokenizer = made.read_tokenizer(base / "tokenizer-other-alone")
        return Operation(
            lambda folder: made.give_owner_files(copied(base / "tokenizer-alone", folder / "tokenizer")),
            lambda folder: tokenizer.save_pretrained(folder / "tokenizer"),
            lambda folder: made.tokenizer_answers(folder / "tokenizer"),
            subjects.answers["tokenizer-alone"],
            subjects.answers["tokenizer-other-alone"],
            Path("tokenizer"),
        )
    return Operation(
        lambda folder: None,
        lambda folder: _noted(folder, made.train(folder / "run")),
        lambda folder: (folder / "weights").read_text(),
        None,
        subjects.answers["run"],
    )


OPERATIONS = ("save", "items add", "batch", "tokenizer", "training")
SHARES = ["save"] * 4 + ["items add"] * 2 + ["batch"] * 2 + ["tokenizer"] * 2 + ["training"]


def _noted(folder: Path, text: str) -> None:
    (folder / "weights").write_text(text)


def is_file_event(event: str, arguments: tuple) -> bool:
    """Whether an audit event is a step of work on files: what is opened, made, renamed, removed."""
    names = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.chmod", "ctypes.dlsym")
    return event in names and not str(arguments[0]).endswith((".py", ".pyc", ".so"))


def measure(subjects: Subjects) -> None:
    """How many file events and seconds each operation has: a random moment is within these."""
    for model in MODELS:
        adder = TigerRecommender.from_pretrained(subjects.folder / "models" / model)
        table = [{"title": "Folding camp lantern", "brand": "Nowhere"}]
        adder.add_items([NEW[0]], table=table)
        adder.save_pretrained(subjects.folder / "models" / f"{model}-added")
        added = TigerRecommender.from_pretrained(subjects.folder / "models" / f"{model}-added")
        subjects.answers[f"{model}-added"] = made.answers(added)
    for name in OPERATIONS:
        folder = subjects.folder / f"measured {name}"
        folder.mkdir()
        one = operation(subjects, name, "two_stage")
        one.prepare(folder)

        def counted(one: Operation = one, folder: Path = folder) -> None:
            count = [0]

            def hook(event: str, arguments: tuple) -> None:
                count[0] += is_file_event(event, arguments)

            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            sys.addaudithook(hook)
            began = time.monotonic()
            one.run(folder)
            (folder / "count").write_text(f"{count[0]} {time.monotonic() - began}")

        assert wait(forked(counted), 60) == 0, name
        count, seconds = (folder / "count").read_text().split()
        subjects.lengths[name] = int(count), float(seconds)


def plan(random: Random, subjects: Subjects) -> Plan:
    """SIGKILL at the n-th file event, or after a while, once or several times; then once to the end."""
    name, model = random.choice(SHARES), random.choice(MODELS)
    count, seconds = subjects.lengths[name]
    kills = [
        ("event", random.randrange(1, count + 2)) if random.random() < 0.6 else ("after", random.random() * seconds)
        for _ in range(random.choice([1, 1, 2]))
    ]
    in_two_steps = name in ("save", "tokenizer") and random.random() < 0.2

    def work(folder: Path) -> str:
        if in_two_steps:  # where the system can't exchange two folders
            files._swapped = lambda *_: False
        one = operation(subjects, name, model)
        one.prepare(folder)
        for way, when in kills:
            _killed(one, folder, way, when)
            if not (in_two_steps and one.owner is not None and not (folder / one.owner).exists()):
                check(one, folder, finished=False)
        try:
            one.run(folder)
        except DataError as error:
            raise Fault(LOST, f"the next run is refused: {error}") from error
        except BaseException as error:  # noqa: BLE001
            raise Fault(TRACEBACK, f"the next run: {told(error)}") from error
        check(one, folder, finished=True)
        return RIGHT

    what = ", then ".join(f"{way} {when:.4g}" for way, when in kills) + (", in two steps" if in_two_steps else "")
    return Plan(name, f"{model} {what}", work)


def _killed(one: Operation, folder: Path, way: str, when: float) -> None:
    def victim() -> None:
        if way == "event":
            left = [when]

            def hook(event: str, arguments: tuple) -> None:
                if is_file_event(event, arguments):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
        one.run(folder)

    child = forked(victim)
    if way == "after":
        time.sleep(when)
        os.kill(child, signal.SIGKILL)
    code = wait(child, 45)
    if code not in (0, -signal.SIGKILL):
        raise Fault(TRACEBACK, f"killed, it exits with {code}")


def check(one: Operation, folder: Path, finished: bool) -> None:
    """Whether the folder answers as before or after, with its owner's files; if finished, after, and nothing lies
    about.

    Raises:
        Fault: it doesn't.
    """
    if one.before is not None or finished:
        try:
            found = one.read(folder)
        except DataError as error:
            raise Fault(LOST, f"neither old nor new: {error}") from error
        except BaseException as error:  # noqa: BLE001
            raise Fault(LOST if finished else TRACEBACK, f"neither old nor new: {told(error)}") from error
        if found != one.after and (finished or found != one.before):
            raise Fault(WRONG, "it answers neither as before nor as after")
    if one.owner is not None and (lost := made.owner_files_lost(folder / one.owner)):
        raise Fault(LOST, f"files of the owner: {lost}")
    if finished and one.owner == Path("model"):  # where nothing was left to do, the save that clears is the next one
        TigerRecommender.from_pretrained(folder / "model").save_pretrained(folder / "model")
    if finished and (left := made.leftovers(folder)):
        raise Fault(LOST, f"left lying about: {left}")
