"""A new user with a shop's export: from two CSV files to answers over HTTP, reading every line that is printed."""

import csv
import json
import re
import signal
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests import processes
from tests.messy_shop import ITEMS, TRAPS, UNKNOWN, USERS, item_ids, write_events, write_items
from tests.processes import Started, run_python

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")
httpx2 = pytest.importorskip("httpx2", reason="needs the extra dev")

CPU_SECONDS = 120  # 12 where it was written: import, training, answers and service together
SENSELESS = (r"Traceback", r"site-packages", r"warnings\.warn", r"object at 0x", r"\bnan\b", r"\bNone\b", r"\[\d")


def sensible(printed: str) -> str:
    """The text, of which each line can be read by somebody who knows nothing of the library's inside."""
    for line in printed.splitlines():
        if re.search(r"\d%\|", line):  # a progress bar
            continue
        for pattern in SENSELESS:
            assert not re.search(pattern, line), line
        assert not line.strip() or re.search("[A-Za-z]", line), f"numbers without a word: {line}"
        assert len(line) < 300, line
    return printed


def tiger(folder: Path, *words: object, code: int = 0) -> tuple[str, str]:
    """Run a command in the folder: what it printed, standard output and error."""
    done = run_python("-m", "tiger.cli", *words, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return sensible(done.stdout), sensible(done.stderr)


def imports(folder: Path) -> None:
    counts = write_events(folder / "clicks.csv")
    write_items(folder / "products.csv")
    write_events(folder / "clicks_ms.csv", milliseconds=True)
    command = ("import", "products.csv", "clicks.csv", "--out", "datasets/mine")
    printed, refused = tiger(folder, *command, code=2)
    last = counts["events"]
    assert "nothing was written" in refused and not (folder / "datasets").exists()
    assert f"1 events of items that the item table lacks: clicks.csv, row {last - 2} ('{UNKNOWN}')" in refused
    assert f"1 events without a user: clicks.csv, row {last - 1}" in refused
    assert "1 events without a time that can be read" in refused and f"clicks.csv, row {last}" in refused
    assert "or run it again with --drop-unknown" in refused
    printed, said = tiger(folder, *command, "--drop-unknown")
    for line in ("item_id <- SKU", "title <- Product Name", "price <- Price, parsed", "image_url <- Picture, a URL"):
        assert line in said
    assert "categories <- Dept" in said and "user_id <- visitor" in said and "timestamp <- event_time" in said
    assert f"{USERS + 1} users, 1 of them with fewer than 3 events" in printed and f"{ITEMS} items" in printed
    assert f"{counts['good']:,} events from 2024-03-01" in printed
    assert f"{counts['duplicates']} of them repeat user, item and time of another" in printed
    assert "next: tiger train datasets/mine" in printed
    items = pq.read_table(folder / "datasets/mine/items.parquet").to_pylist()
    assert [item["item_id"] for item in items] == item_ids() and item_ids()[: len(TRAPS)] == list(TRAPS)
    assert items[0]["title"] == "Tent by Acme, no. 0" and items[3]["title"] == "Backpack by Acme, no. 3"
    assert items[6]["title"] == "Tent by Nord & Co, no. 6" and items[0]["categories"] == "Outdoor > Tent"
    assert [item["price"] for item in items[:2]] == [1200.99, 1.99] and items[1]["image_url"].endswith("/1.jpg")
    tiger(folder, "import", "products.csv", "clicks_ms.csv", "--out", "datasets/ms", "--drop-unknown")
    iso, milliseconds = (pq.read_table(folder / f"datasets/{name}/interactions.parquet") for name in ("mine", "ms"))
    assert iso.equals(milliseconds) and len(iso) == counts["good"]


def trains(folder: Path) -> None:
    printed, said = tiger(folder, "train", "datasets/mine", "--out", "runs/mine", "--fast")
    steps = re.findall(r"^step (\d) of 4: .*about .* s", said, flags=re.MULTILINE)
    assert steps == ["1", "2", "3", "4"] and "report: runs/mine/report.html" in said
    assert (folder / "runs/mine/report.html").stat().st_size > 10_000
    assert f"The next item of {USERS} users" in printed and "saved to runs/mine/model; try: tiger recommend" in printed
    recall = {name: float(value) for name, value in re.findall(r"^([\w-]+) +(0\.\d{4}) +0\.\d{4}$", printed, re.M)}
    counted = [f"{name}-with-validation" for name in ("hybrid", "memory", "tiger", "two-stage")]
    assert list(recall) == ["popularity", "transition", "content", "hybrid", *counted]
    assert recall["two-stage-with-validation"] > 1.5 * recall["popularity"]


def recommends(folder: Path) -> None:
    printed, _ = tiger(folder, "recommend", "runs/mine", "--history", "007", "-k", 3)
    rows = [line.split(maxsplit=2) for line in printed.splitlines()]
    titles = {
        item["item_id"]: item["title"] for item in pq.read_table(folder / "datasets/mine/items.parquet").to_pylist()
    }
    assert len(rows) == 3 and all(titles[item] == title for _, item, title in rows) and "007" not in rows[0]
    _, warned = tiger(folder, "recommend", "runs/mine", "--history", "7")
    assert "warning: items unknown and left out of the histories: '7'" in warned
    _, typo = tiger(folder, "recommend", "runs/mien", "--history", "007", code=2)
    assert "(is runs/mine meant?)" in typo and typo.count("\n") == 1
    _, wrong = tiger(folder, "recommend", "runs/mine", "--histories", "clicks.csv", "--out", "x.csv", code=2)
    assert "tiger import makes a dataset of CSV" in wrong and not (folder / "x.csv").exists()
    log = "datasets/mine/interactions.parquet"
    printed, _ = tiger(folder, "recommend", "runs/mine", "--histories", log, "--out", "x.csv", "-k", 5)
    assert printed == f"x.csv: recommendations for {USERS + 1} users\n"
    with open(folder / "x.csv", newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 5 * (USERS + 1) and {answer["item_id"] for answer in answers} <= set(titles)


def informs(folder: Path) -> None:
    printed, _ = tiger(folder, "info", "runs/mine")
    facts = dict(re.findall(r"^ *(\w+)  (.*)$", printed, flags=re.MULTILINE))
    assert facts["items"] == str(ITEMS) and facts["ranker"].startswith("two-stage")
    assert facts["try"].startswith("tiger recommend runs/mine --history 007")


def serves(folder: Path) -> None:
    words = ["-m", "tiger.cli", "serve", "runs/mine", "--port", "0"]
    with Started(words, folder) as service:
        deadline = time.monotonic() + 300
        while not (started := re.search(r"48 items on (http://127.0.0.1:\d+)/docs\n", service.printed())):
            assert service.poll(0.1) is None and time.monotonic() < deadline, service.printed()
        body = {"histories": [["007", "1e5"]], "k": 2, "fields": ["title", "price"]}
        answer = httpx2.post(f"{started[1]}/recommend", json=body, timeout=60)
        (row,) = answer.json()["recommendations"]
        assert answer.status_code == 200 and row["unknown"] == [] and len(row["items"]) == 2
        assert all(" by " in one["title"] and one["price"] > 0 for one in row["fields"])
        wrong = httpx2.post(f"{started[1]}/recommend", json={"history": []}, timeout=60)
        assert wrong.status_code == 422 and "body.histories: Field required" in wrong.json()["error"]
        service.send_signal(signal.SIGTERM)
        done = service.finished()
    assert done.returncode == 0
    assert "POST /recommend 200" in sensible(done.stderr)


def cpu_seconds() -> float:
    """Of all commands so far: they are children of the process that they are forked from."""
    times = psutil.Process(processes._parent().pid).cpu_times()
    return times.children_user + times.children_system


def test_from_two_files_to_answers(tmp_path):
    before = cpu_seconds()
    for step in (imports, trains, recommends, informs, serves):
        step(tmp_path)
    used = cpu_seconds() - before
    print(json.dumps({"cpu_seconds": round(used, 1)}))
    assert used < CPU_SECONDS
