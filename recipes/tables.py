"""Print the results files as tables, and put them into the README: ``python recipes/tables.py``."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->"
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
# What the papers print, R@10 and N@10 of test, as published, history removed or not as each paper has it.
PAPER = {"beauty": (0.0648, 0.0384), "sports": (0.0400, 0.0225), "toys": (0.0712, 0.0432)}


def results_tables(folder: Path) -> str:
    """Markdown: a table a dataset and setting, weakest model first."""
    if not folder.is_dir():
        return ""
    parts = []
    for dataset in sorted(path for path in folder.iterdir() if path.is_dir() and path.name in PAPER):
        rows = []
        for file in sorted(dataset.glob("*.json")):
            content = json.loads(file.read_text())
            rows += content if isinstance(content, list) else [content]
        for setting in sorted({row["setting"] for row in rows}):
            parts.append(f"**{dataset.name.capitalize()}**, {setting}\n\n{_table(rows, setting, dataset.name)}")
    return "\n\n".join(parts) + "\n"


def _table(rows: list[dict], setting: str, dataset: str) -> str:
    lines = [f"| model | {' | '.join(METRICS)} | encoder | seeds |", "|---|" + "---:|" * len(METRICS) + "---|---|"]
    chosen = [row for row in rows if row["setting"] == setting]
    best = max(row["metrics"]["ndcg@10"] for row in chosen)
    for row in sorted(chosen, key=lambda row: row["metrics"]["ndcg@10"]):
        values = [f"{row['metrics'][metric]:.4f}" for metric in METRICS]
        name = f"**{row['model']}**" if row["metrics"]["ndcg@10"] == best else row["model"]
        seeds = ", ".join(str(seed) for seed in row["seeds"]) or "–"
        encoder = (row["encoder"] or "–").split("/")[-1]
        lines.append(f"| {name} | {' | '.join(values)} | {encoder} | {seeds} |")
    if setting == "as published, history removed":
        recall, ndcg = PAPER[dataset]
        lines.insert(2, f"| *TIGER, as printed in the paper* | | | {recall:.4f} | {ndcg:.4f} | sentence-t5 | – |")
    return "\n".join(lines)


def updated(readme: str, tables: str) -> str:
    """The README with the tables between the markers."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + tables + END + rest.split(END)[1]


def main() -> None:
    readme = ROOT / "README.md"
    tables = results_tables(ROOT / "recipes" / "results")
    readme.write_text(updated(readme.read_text(), tables))
    print(tables)


if __name__ == "__main__":
    main()
