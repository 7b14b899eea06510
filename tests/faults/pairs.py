"""Two processes on one folder: two that write, or some that write and one that reads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults import subjects as made
from tests.faults.subjects import MODELS, Subjects
from tests.faults.trying import HANG, LOST, REFUSED, RIGHT, TRACEBACK, WRONG, Fault, Plan, copied, forked, wait
from tiger.cli.main import main as cli
from tiger.recommender.recommender import TigerRecommender

SHARES = ["saves"] * 3 + ["items add"] * 2 + ["batch", "tokenizer", "tokenizer"]


def plan(random: Random, subjects: Subjects) -> Plan:
    """One of four scenes; what each process waits before each step is random."""
    name, model = random.choice(SHARES), random.choice(MODELS)
    pauses = [[random.random() * 0.05 for _ in range(3)] for _ in range(3)]
    scene = {"saves": _saves, "items add": _adds, "batch": _batches, "tokenizer": _tokenizers}[name]
    return Plan(name, model, lambda folder: scene(subjects, model, folder, pauses))


def _together(folder: Path, works: list[Callable[[int], None]], pauses: list[list[float]]) -> list[int]:
    """Run each in a process of its own, as often as it has pauses; the exit codes."""

    def repeated(work: Callable[[int], None], waits: list[float]) -> None:
        while not (folder / "go").exists():
            time.sleep(0.001)
        for turn, seconds in enumerate(waits):
            time.sleep(seconds)
            work(turn)

    children = [forked(lambda one=one, waits=waits: repeated(one, waits)) for one, waits in zip(works, pauses)]
    (folder / "go").touch()
    codes = [wait(child, 50) for child in children]
    if None in codes:
        raise Fault(HANG, f"exit codes {codes}")
    if set(codes) - {0, 2}:
        raise Fault(TRACEBACK, f"exit codes {codes}")
    (folder / "go").unlink()
    return codes


def _reads(read: Callable[[], str], allowed: list[str], said: Path) -> Callable[[int], None]:
    def work(turn: int) -> None:
        if read() not in allowed:
            said.write_text("mixed")

    return work


def _ended(folder: Path, place: Path, found: str, allowed: list[str], codes: list[int], owner: bool = True) -> str:
    if (folder / "mixed").exists() or found not in allowed:
        raise Fault(WRONG, "parts of both")
    if owner and (lost := made.owner_files_lost(place)):
        raise Fault(LOST, f"files of the owner: {lost}")
    if left := made.leftovers(folder):
        raise Fault(LOST, f"left lying about: {left}")
    return REFUSED if 2 in codes else RIGHT


def _saves(subjects: Subjects, model: str, folder: Path, pauses: list[list[float]]) -> str:
    place = copied(subjects.folder / "models" / model, folder / "model")
    made.give_owner_files(place)
    names = [model, f"{model}-other"]
    pair = [TigerRecommender.from_pretrained(subjects.folder / "models" / one) for one in names]
    allowed = [subjects.answers[one] for one in names]

    def read() -> str:
        return made.answers(TigerRecommender.from_pretrained(place))

    works: list[Callable[[int], None]] = [lambda turn, one=one: one.save_pretrained(place) for one in pair]
    codes = _together(folder, [*works, _reads(read, allowed, folder / "mixed")], pauses)
    if 2 in codes:
        raise Fault(LOST, f"a save or a load is refused: {codes}")
    return _ended(folder, place, read(), allowed, codes)


def _adds(subjects: Subjects, model: str, folder: Path, pauses: list[list[float]]) -> str:
    place = copied(subjects.folder / "models" / model, folder / "model")
    made.give_owner_files(place)
    before = TigerRecommender.from_pretrained(place).tokenizer.item_ids

    def add(who: int) -> Callable[[int], None]:
        def work(turn: int) -> None:
            file = folder / f"{who}-{turn}.parquet"
            table = {"item_id": [f"new-{who}-{turn}"], "title": ["lamp"], "brand": [f"brand {who}"]}
            pq.write_table(pa.table(table), file)
            cli(["items", "add", str(place), str(file)])

        return work

    codes = _together(folder, [add(0), add(1)], [one[:2] for one in pauses])
    after = TigerRecommender.from_pretrained(place).tokenizer.item_ids
    wanted = [f"new-{who}-{turn}" for who in range(2) for turn in range(2)]
    if sorted(after) != sorted([*before, *wanted]):
        raise Fault(LOST, f"of {wanted} there are {[item for item in after if item not in before]}, {codes}")
    return _ended(folder, place, "", [""], codes)


def _batches(subjects: Subjects, model: str, folder: Path, pauses: list[list[float]]) -> str:
    tiger = TigerRecommender.from_pretrained(subjects.folder / "models" / "codes")
    os.link(subjects.folder / "log.parquet", folder / "log.parquet")

    def work(turn: int) -> None:
        made.write_batch(tiger, folder)

    codes = _together(folder, [work, work], [one[:1] for one in pauses])
    if codes == [2, 2]:
        raise Fault(LOST, "each is refused because of the other")
    found = made.batch_answers(folder / "out.parquet")
    return _ended(folder, folder, found, [subjects.answers["batch"]], codes, owner=False)


def _tokenizers(subjects: Subjects, model: str, folder: Path, pauses: list[list[float]]) -> str:
    names = ["tokenizer-alone", "tokenizer-other-alone"]
    place = copied(subjects.folder / names[0], folder / "tokenizer")
    made.give_owner_files(place)
    pair = [made.read_tokenizer(subjects.folder / one) for one in names]
    allowed = [subjects.answers[one] for one in names]
    works: list[Callable[[int], None]] = [lambda turn, one=one: one.save_pretrained(place) for one in pair]
    reader = _reads(lambda: made.tokenizer_answers(place), allowed, folder / "mixed")
    codes = _together(folder, [*works, reader], pauses)
    if 2 in codes:
        raise Fault(LOST, f"a save or a load is refused: {codes}")
    return _ended(folder, place, made.tokenizer_answers(place), allowed, codes)
