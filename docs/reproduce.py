"""Write the table of recorded commands into ``docs/reproduce.md``: ``python docs/reproduce.py``.

Each file of results names the command that made it; the table lists them, with the data sets where
:mod:`data` puts them. A test compares the page with what this script would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reproduce.md"
RESULTS = ROOT / "recipes" / "results"
BEGIN, END = "<!-- commands: begin -->", "<!-- commands: end -->"


def commands_of(found: Any) -> Iterator[tuple[str, str, bool]]:
    """Command, model and whether a GPU trained or measured it, of every part of a results file that names one."""
    if isinstance(found, list):
        for part in found:
            yield from commands_of(part)
    elif isinstance(found, dict):
        if isinstance(found.get("command"), str):
            told = " ".join(str(found.get(key, "")) for key in ("hardware", "device", "note"))
            yield found["command"], str(found.get("model", "")), bool(re.search(r"H[12]00", told))
        for part in found.values():
            yield from commands_of(part)


def recorded() -> list[tuple[str, list[str], bool]]:
    """Commands in the order of their files, what each made, and whether on a GPU."""
    rows: dict[str, tuple[dict[str, list[str]], bool]] = {}
    for file in sorted(RESULTS.rglob("*.json")):
        for command, model, gpu in commands_of(json.loads(file.read_text())):
            made, on_gpu = rows.get(command, ({}, False))
            models = made.setdefault(f"`{file.relative_to(RESULTS).with_suffix('').as_posix()}`", [])
            if model not in (*models, "", file.stem):
                models.append(model)
            rows[command] = made, on_gpu or gpu
    return [
        (command, [f"{file} ({', '.join(models)})" if models else file for file, models in made.items()], gpu)
        for command, (made, gpu) in rows.items()
    ]


def readable(command: str) -> str:
    """Name data sets as :mod:`data` does, wherever they lay when the command ran."""
    return re.sub(r"(?:\.\./)+(?:\w+/)*?data/(?:amazon/)?(\w+)", r"datasets/\1", command)


def table() -> str:
    """Commands and what they made, in Markdown."""
    lines = ["| in `recipes/results/` | on | command |", "| --- | --- | --- |"]
    for command, made, gpu in recorded():
        lines.append(f"| {', '.join(made)} | {'GPU' if gpu else 'CPU'} | `{readable(command)}` |")
    return "\n".join(lines)


def page() -> str:
    """The page with a table of today's results."""
    before, rest = PAGE.read_text().split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
