"""Count what crafted model directories do: `python tests/faults/chaos.py`, or `make chaos`.

Each try copies a recommender of `tests/fixtures/`, changes one file of it, makes the digests of its manifest fit, and
loads it in a process of its own under a limit of time and memory. A model whose author chose other valid values is no
fault: it has to answer with items of the catalog and finite scores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

FIXTURE = Path(__file__).parents[1] / "fixtures" / "model_f1fc351"
OUTCOMES = ("refused in one line", "answers, finite and valid", "wrong silently", "traceback", "hang", "crash")
VALUES = [None, True, -1, 0, 1, 2, 10**12, 10**400, 0.5, -1e300, "", "x" * 10**6, "\ud800", [], {}, [[]], {"a": 1}]


def tensors(random: random.Random, file: Path) -> str:
    """One tensor of another shape, type or value, missing, or one too many."""
    arrays = load_file(file)
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    name = random.choice(sorted(arrays))
    array = arrays[name]
    flat = array.ravel()
    changes = {
        "other type": lambda: array.astype(random.choice(["bool", "int8", "int64", "float16", "float64", "uint8"])),
        "cut": lambda: array[: len(array) // 2] if array.ndim else array[None],
        "flat": lambda: flat,
        "empty": lambda: array[:0] if array.ndim else flat[:0],
        "another dimension": lambda: array[None],
        "turned": lambda: array[::-1] if array.ndim else flat,
        "huge": lambda: array * array.dtype.type({"i": 10**6, "f": 3e4}.get(array.dtype.kind, 1)),
        "negative": lambda: (-(array.astype("int64")) - 1).astype(array.dtype),
        "nan": lambda: array * np.nan,
        "zeros": lambda: array * 0,
        "one value": lambda: _one_value(random, array),
        "missing": lambda: None,
        "one more": lambda: array,
    }
    what = random.choice(sorted(changes))
    changed = changes[what]()
    if what == "one more":
        arrays["more"] = array
    elif changed is None:
        del arrays[name]
    else:
        arrays[name] = changed
    save_file({key: np.ascontiguousarray(one) for key, one in arrays.items()}, file, metadata)
    return f"{name} {what}"


def _one_value(random: random.Random, array: np.ndarray) -> np.ndarray:
    changed = array.copy().reshape(-1)
    if changed.size:
        bits = changed.view(np.uint8)
        bits[random.randrange(len(bits))] ^= 1 << random.randrange(8)
    return changed.reshape(array.shape)


def settings(random: random.Random, file: Path) -> str:
    """One value of another type, missing, deep or huge."""
    content = json.loads(file.read_text())
    what = random.choice(["value", "value", "value", "value", "missing", "deep", "list", "text", "cut"])
    name = random.choice(sorted(content))
    if what == "value":
        content[name] = random.choice(VALUES)
    elif what == "missing":
        del content[name]
    whole = json.dumps(content) if what != "value" or content[name] != 10**400 else json.dumps(content | {name: "@"})
    whole = whole.replace('"@"', "1" + "0" * 5000)
    other = {"deep": "[" * 10**6, "list": f"[{whole}]", "text": '"x"', "cut": whole[: len(whole) // 2]}
    file.write_text(other.get(what, whole))
    return f"{name} {what}"


def trees(random: random.Random, file: Path) -> str:
    """One number of LightGBM's text another one, or a line gone or twice."""
    content = json.loads(file.read_text())
    text = content["lightgbm"][0]
    lines = text.split("\n")
    at = random.randrange(len(lines))
    what = random.choice(["number", "number", "number", "number", "gone", "twice", "cut"])
    if what == "number":
        places = [place for place, line in enumerate(lines) if re.search(r"=.*\d", line)]
        at = random.choice(places)
        name, _, value = lines[at].partition("=")
        words = value.split(" ")
        words[random.randrange(len(words))] = random.choice(
            ["0", "-1", "-100", "1000000", "nan", "1e400", "x", "", "5"]
        )
        lines[at] = f"{name}={' '.join(words)}"
    elif what == "gone":
        del lines[at]
    elif what == "twice":
        lines.insert(at, lines[at])
    else:
        lines = lines[:at]
    content["lightgbm"][0] = "\n".join(lines)
    file.write_text(json.dumps(content))
    return f"{lines[at][:20] if at < len(lines) else ''} {what}"


def table(random: random.Random, file: Path) -> str:
    """Another item table."""
    items = pq.read_table(file)
    column = random.choice(items.column_names)
    place = items.column_names.index(column)
    count = len(items)
    values = {
        "struct": lambda: pa.array([{"a": 1}] * count),
        "binary": lambda: pa.array([b"\xff"] * count),
        "numbers": lambda: pa.array(range(count)),
        "nulls": lambda: pa.nulls(count),
        "lists": lambda: pa.array([["x", None]] * count),
        "map": lambda: pa.array([[("a", 1)]] * count, pa.map_(pa.string(), pa.int64())),
        "dates": lambda: pa.array([0] * count, pa.timestamp("s")),
    }
    others = {
        "fewer": lambda: items.slice(1),
        "none": lambda: items.slice(0, 0),
        "turned": lambda: items.take(np.arange(count)[::-1]),
        "dropped": lambda: items.drop_columns(column),
        "twice": lambda: items.append_column(column, items[column]),
        "many": lambda: pa.table({"item_id": pa.array(np.zeros(3_000_000, dtype=np.int64))}),
    }
    what = random.choice(sorted([*values, *others]))
    pq.write_table(others[what]() if what in others else items.set_column(place, column, values[what]()), file)
    return f"{column} {what}"


def place(random: random.Random, file: Path) -> str:
    """A pipe, a device, a folder or a link in place of a file."""
    content = file.read_bytes()
    file.unlink()
    what = random.choice(["pipe", "device", "folder", "link", "circle", "gone"])
    if what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    elif what != "gone":
        outside = Path(tempfile.gettempdir()) / f"chaos-{os.getpid()}"
        outside.write_bytes(content)
        file.symlink_to({"device": Path("/dev/zero"), "link": outside, "circle": file}[what])
    return what


def raw(random: random.Random, file: Path) -> str:
    """Bytes cut off or flipped."""
    content = bytearray(file.read_bytes())
    what = random.choice(["cut", "flip", "flip early", "empty", "noise"])
    if what.startswith("flip"):
        end = min(len(content), 2000) if what == "flip early" else len(content)
        content[random.randrange(end)] ^= 1 << random.randrange(8)
    elif what == "noise":
        content = bytearray(random.randbytes(len(content)))
    else:
        content = content[: random.randrange(len(content)) if what == "cut" else 0]
    file.write_bytes(content)
    return what


KINDS = {"tensors": tensors, "settings": settings, "trees": trees, "item table": table, "places": place, "raw": raw}
SHARES = ["tensors"] * 6 + ["settings"] * 5 + ["trees"] * 4 + ["item table"] * 2 + ["places"] * 2 + ["raw"] * 3


def craft(random: random.Random, folder: Path) -> tuple[str, str, str]:
    """Make a directory; what was done to it: the kind, the file, the change."""
    kind = random.choice(SHARES)
    name = "two_stage" if kind == "trees" else random.choice(["two_stage", "codes", "click"])
    shutil.copytree(FIXTURE / name, folder)
    suffix = {"tensors": ".safetensors", "settings": ".json", "trees": "trees.json", "item table": ".parquet"}
    files = sorted(path for path in folder.rglob(f"*{suffix.get(kind, '')}") if path.is_file())
    if kind == "settings":
        files = [path for path in files if path.name != "trees.json"]
    file = random.choice(files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change = KINDS[kind](random, file)
    if file.name != "tiger.json":
        manifest = json.loads((folder / "tiger.json").read_text())
        listed = [path for path in folder.rglob("*") if path.is_file() and path.name != "tiger.json"]
        listed = [path for path in listed if not path.is_symlink()]
        digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in listed}
        (folder / "tiger.json").write_text(json.dumps(manifest | {"files": digests}))
    return kind, f"{name}/{file.relative_to(folder)}", change


def use(folder: Path, memory: int) -> None:
    """In a process of its own: load, answer, and say by the exit code how that went."""
    import tiger
    from tiger.utils.errors import DataError

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    warnings.simplefilter("ignore")
    try:
        recommender = tiger.TigerRecommender.from_pretrained(folder)
        ids = recommender.tokenizer.item_ids
        histories = [ids[:3], ids[5:6], []]
        answers, scores = recommender.recommend(histories, k=5, num_beams=8)
        recommender.titles(ids)
        if recommender.ranker is not None:
            recommender.rank(histories, [ids[:4]] * 3)
        recommender.add_items(["new"], texts=["Title: A lamp"])
        recommender.recommend([["new"]], k=3, num_beams=8)
    except DataError as error:
        os._exit(0 if "\n" not in str(error) else 3)
    except BaseException as error:  # noqa: BLE001
        frames = traceback.extract_tb(error.__traceback__)[:-6:-1]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        print(f"    {type(error).__name__}: {str(error)[:300]}\n    {where}")
        sys.stdout.flush()
        os._exit(3)
    valid = all(len(answer) == 5 and set(answer) <= set(ids) for answer in answers) and np.isfinite(scores).all()
    os._exit(1 if valid else 2)


def outcome(folder: Path, seconds: float, memory: int) -> str:
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        use(folder, memory)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return OUTCOMES[code] if 0 <= code <= 3 else "crash"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20, help="of one try; more is a hang")
    parser.add_argument("--limit", type=float, default=600, help="seconds in all")
    parser.add_argument("--memory", type=int, default=4 << 30, help="bytes of one try")
    args = parser.parse_args()
    import torch

    import tiger

    torch.set_num_threads(1)
    for name in ("two_stage", "codes", "click"):  # imports and the tables of MKL, once for all processes
        tiger.TigerRecommender.from_pretrained(FIXTURE / name)
    counts: Counter[tuple[str, str] | str] = Counter()
    began, faults = time.monotonic(), 0
    for number in range(args.tries):
        if time.monotonic() - began > args.limit:
            print(f"stopped after {number} tries: {args.limit:g} s have passed")
            break
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            kind, file, change = craft(random.Random(args.seed * 1_000_003 + number), folder)
            found = outcome(folder, args.seconds, args.memory)
        counts[kind, found] += 1
        counts[found] += 1
        if found not in OUTCOMES[:2]:
            faults += 1
            print(f"{number}: {kind}, {file}, {change}: {found}", flush=True)
    print("| changed | tries | " + " | ".join(OUTCOMES) + " |\n|" + "---|" * (len(OUTCOMES) + 2))
    for kind in [*KINDS, "all"]:
        row = [counts[name] if kind == "all" else counts[kind, name] for name in OUTCOMES]
        print(f"| {kind} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
