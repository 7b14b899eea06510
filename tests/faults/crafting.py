"""Crafted model directories: the digests fit, the content doesn't.

Each try copies a recommender of `tests/fixtures/`, changes one file of it, makes the digests of its manifest fit, and
loads it. A model whose author chose other valid values is no fault: it has to answer with items of the catalog and
finite scores.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import tiger
from tests.faults.subjects import FIXTURE, Subjects
from tests.faults.trying import RIGHT, WRONG, Fault, Plan

VALUES = [None, True, -1, 0, 1, 2, 10**12, 10**400, 0.5, -1e300, "", "x" * 10**6, "\ud800", [], {}, [[]], {"a": 1}]


def tensors(random: Random, file: Path) -> str:
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


def _one_value(random: Random, array: np.ndarray) -> np.ndarray:
    changed = array.copy().reshape(-1)
    if changed.size:
        bits = changed.view(np.uint8)
        bits[random.randrange(len(bits))] ^= 1 << random.randrange(8)
    return changed.reshape(array.shape)


def settings(random: Random, file: Path) -> str:
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


def trees(random: Random, file: Path) -> str:
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


def table(random: Random, file: Path) -> str:
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


def place(random: Random, file: Path) -> str:
    """A pipe, a device, a folder or a link in place of a file."""
    content, model = file.read_bytes(), next(folder for folder in file.parents if (folder / "tiger.json").exists())
    file.unlink()
    what = random.choice(["pipe", "device", "folder", "link", "circle", "gone"])
    if what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    elif what != "gone":
        outside = model.with_name("outside")
        outside.write_bytes(content)
        file.symlink_to({"device": Path("/dev/zero"), "link": outside, "circle": file}[what])
    return what


def raw(random: Random, file: Path) -> str:
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


def plan(random: Random, subjects: Subjects) -> Plan:
    """One change of one file."""
    kind = random.choice(SHARES)
    name = "two_stage" if kind == "trees" else random.choice(["two_stage", "codes", "click"])
    suffix = {"tensors": ".safetensors", "settings": ".json", "trees": "trees.json", "item table": ".parquet"}
    files = sorted(path for path in (FIXTURE / name).rglob(f"*{suffix.get(kind, '')}") if path.is_file())
    if kind == "settings":
        files = [path for path in files if path.name != "trees.json"]
    file = random.choice(files).relative_to(FIXTURE / name)

    def work(folder: Path) -> str:
        model = Path(shutil.copytree(FIXTURE / name, folder / "model"))
        KINDS[kind](random, model / file)
        if file.name != "tiger.json":
            sign(model)
        return use(model)

    return Plan(kind, f"{name}/{file}", work)


def sign(folder: Path) -> None:
    """Make the digests of a manifest fit."""
    manifest = json.loads((folder / "tiger.json").read_text())
    listed = [path for path in folder.rglob("*") if path.is_file() and path.name != "tiger.json"]
    listed = [path for path in listed if not path.is_symlink()]
    digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in listed}
    (folder / "tiger.json").write_text(json.dumps(manifest | {"files": digests}))


def use(folder: Path) -> str:
    """Load a directory, ask all of it."""
    recommender = tiger.TigerRecommender.from_pretrained(folder)
    ids = recommender.tokenizer.item_ids
    histories = [ids[:3], ids[5:6], []]
    answers, scores = recommender.recommend(histories, k=5, num_beams=8)
    recommender.titles(ids)
    if recommender.ranker is not None:
        recommender.rank(histories, [ids[:4]] * 3)
    recommender.add_items(["new"], texts=["Title: A lamp"])
    recommender.recommend([["new"]], k=3, num_beams=8)
    valid = all(len(answer) == 5 and set(answer) <= set(ids) for answer in answers) and np.isfinite(scores).all()
    if not valid:
        raise Fault(WRONG, f"{answers} {scores.tolist()}")
    return RIGHT
