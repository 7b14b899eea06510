"""Print the results files as tables, and put them into README.md and docs/results.md: ``python recipes/tables.py``."""

from __future__ import annotations

import json
from pathlib import Path

from tiger.utils.markdown import markdown_table

ROOT = Path(__file__).parents[1]
# What the paper prints for TIGER, R@10 and N@10 on test.
PAPER = {"beauty": (0.0648, 0.0384), "sports": (0.0400, 0.0225), "toys": (0.0712, 0.0432)}
HEADLINE = "as published, history removed"
OTHERS = ("as published, history kept", "ties shuffled, history removed", "ties shuffled, history kept")


def rows_of(dataset: Path) -> dict[str, dict[str, dict]]:
    """Rows of a dataset's results files, by model and setting."""
    rows: dict[str, dict[str, dict]] = {}
    for file in sorted(dataset.glob("*.json")):
        content = json.loads(file.read_text())
        for row in content if isinstance(content, list) else [content]:
            rows.setdefault(row["model"], {})[row["setting"]] = row
    return rows


def summary_table(folder: Path) -> str:
    """Markdown for the README: R@10 / N@10 of a few models, with the history removed and kept."""
    settings = {"removed": HEADLINE, "kept": OTHERS[0]}
    heads = ["R@10 / N@10, history", *(f"{name.capitalize()}, {way}" for name in PAPER for way in settings)]
    found = {name: rows_of(folder / name) for name in PAPER}

    def line(model: str) -> list[str]:
        parts = [found[name].get(model, {}).get(way, {}) for name in PAPER for way in settings.values()]
        return [f"`{model}`", *(pair(part.get("metrics")) for part in parts)]

    lines = [line(model) for model in ("tiger-paper", "tiger-no-memory", "hybrid", "memory", "tiger", "tiger-ranked")]
    second = ["`two-stage`"]
    for name in PAPER:
        second += [pair(_second_stage_metrics(folder, name)), ""]
    paper = ["*TIGER, the paper; it does not say which*"]
    for recall, ndcg in PAPER.values():
        paper += [f"{recall:.4f} / {ndcg:.4f}", ""]
    last = [line(f"{model}-with-validation") for model in ("hybrid", "two-stage")]
    return markdown_table(heads, [paper, *lines, second, *last]) + "\n"


def results_tables(folder: Path) -> str:
    """Markdown: one table per dataset, weakest model first; the main setting in full, others by R@10 / N@10."""
    if not folder.is_dir():
        return ""
    tables = []
    for dataset in sorted(path for path in folder.iterdir() if path.name in PAPER):
        tables.append(_table(dataset.name, rows_of(dataset)))
        if published := published_table(folder, dataset.name):
            tables.append(published)
    for file in sorted(folder.glob("two_stage/*.json")):
        content, refits = json.loads(file.read_text()), folder / "refits" / file.name
        if refits.exists():
            tables.append(_refits(json.loads(refits.read_text())))
            # What was measured for one T5 and one fit is superseded.
            content["rows"] = [
                row for row in content["rows"] if row["model"] == "hybrid" or row["setting"] != "as published"
            ]
        tables.append(_second_stage(content))
    return "\n\n".join(tables) + "\n"


def _table(dataset: str, rows: dict[str, dict[str, dict]]) -> str:
    heads = [dataset.capitalize(), "R@5 / N@5", "R@10 / N@10", "N@10, 95% over users", *OTHERS, "encoder"]
    lines = []
    for model, settings in rows.items():
        measured = {setting: row["metrics"] for setting, row in settings.items()}
        top = measured.get(HEADLINE)
        low, high = settings.get(HEADLINE, {}).get("over users", {}).get("interval of ndcg@10", (None, None))
        cells = [pair(top, 5), pair(top, 10), "" if low is None else f"{low:.4f} to {high:.4f}"]
        cells += [pair(measured.get(setting), 10) for setting in OTHERS]
        encoder = next(iter(settings.values()))["encoder"]
        cells.append(encoder.split("/")[-1] if encoder else "")
        lines.append((top["ndcg@10"] if top else 0.0, [model, *cells]))
    recall, ndcg = PAPER[dataset]
    lines.append(
        (ndcg, ["*TIGER, the paper's figures*", "", f"{recall:.4f} / {ndcg:.4f}", "", "", "", "", "sentence-t5"])
    )
    ranked = [cells for _, cells in sorted(lines, key=lambda line: line[0])]
    ranked[-1] = [f"**{cell}**" if cell else "" for cell in ranked[-1]]
    return markdown_table(heads, ranked)


def published_table(folder: Path, dataset: str) -> str:
    """Markdown: what others print for their models, weakest first; empty where nothing is recorded of the data set.

    R@10 orders the models, since some print nothing else.
    """
    file = folder / "published.json"
    content = json.loads(file.read_text()) if file.exists() else []
    rows = sorted(
        (row for row in content if dataset in row["metrics"]), key=lambda row: row["metrics"][dataset]["recall@10"]
    )
    heads = [f"{dataset.capitalize()}, published by others, not measured here", "source", "history removed", "doubts"]
    heads.append("R@10 / N@10")
    lines = [
        [row["model"], row["source"], row["history removed"], " ".join(row["doubts"]), pair(row["metrics"][dataset])]
        for row in rows
    ]
    return markdown_table(heads, lines, left=4) if lines else ""


def _second_stage_metrics(folder: Path, dataset: str) -> dict[str, float]:
    """Of the second stage with T5 and codes: the mean over refits, where they were made; else of one T5."""
    refits = folder / "refits" / f"{dataset}.json"
    if refits.exists():
        full = json.loads(refits.read_text())["variants"]["full"]
        return {metric: full[metric]["mean"] for metric in ("recall@10", "ndcg@10")}
    rows = json.loads((folder / "two_stage" / f"{dataset}.json").read_text())["rows"]
    return next(row["test"] for row in rows if (row["model"], row["setting"]) == ("two-stage", "as published"))


def _refits(content: dict) -> str:
    """Results of recipes/experiments/refits.py for a dataset, one row per variant."""
    ties = "as published" if content["shuffle_ties"] is None else f"ties shuffled, seed {content['shuffle_ties']}"
    heads = [f"{content['dataset'].capitalize()}, second stage over refits, {ties}", "T5s x fits of the trees"]
    heads += ["R@10 / N@10", "± of N@10 over fits", "± over fits of one T5", "N@10 that T5 or codes add"]
    heads += ["p over users and fits"]
    count, seeds = len(content["recommenders"]), len(content["seeds"])
    rows = []
    for variant, found in content["variants"].items():
        ndcg = found["ndcg@10"]
        trees = ndcg.get("std over trees")
        cells = [
            variant,
            f"{count} x {seeds}",
            pair({metric: found[metric]["mean"] for metric in found if "@" in metric}),
        ]
        cells += [f"{ndcg['std over fits']:.4f}", "" if trees is None else f"{trees:.4f}", "", ""]
        if compared := content["full less this"].get(variant, {}).get("ndcg@10"):
            low, high = compared["interval"]
            cells[-2:] = [f"{compared['difference']:+.4f} ({low:+.4f} to {high:+.4f})", f"{compared['p']:.4f}"]
        rows.append(cells)
    return markdown_table(heads, rows, left=1)


def _second_stage(content: dict) -> str:
    """Results of recipes/experiments/two_stage.py for a dataset, one row per variant and setting."""
    heads = [f"{content['dataset'].capitalize()}, second stage", "setting", "R@10 / N@10", "± over seeds of the trees"]
    heads += ["N@10, 95% over users", "p against the hybrid", "held-out validation users"]
    heads += ["N@10 that two-stage adds, over users of one fit"]
    rows = []
    for row in content["rows"]:
        cells = [row["model"], row["setting"], pair(row["test"], 10)]
        if "interval of ndcg@10" in row:
            low, high = row["interval of ndcg@10"]
            cells += [pair(row["std"], 10), f"{low:.4f} to {high:.4f}", f"{row['p against the hybrid']:.4f}"]
            cells.append(pair(row["held out"], 10))
            if added := row.get("two-stage less this, ndcg@10"):
                low, high = added["interval"]
                cells.append(f"{added['mean']:+.4f} ({low:+.4f} to {high:+.4f}), p {added['p']:.4f}")
        rows.append(cells + [""] * (len(heads) - len(cells)))
    return markdown_table(heads, rows, left=2)


def slices_table(folder: Path) -> str:
    """Markdown: N@10 on Beauty by the training events of the target."""
    parts = json.loads((folder / "slices" / "beauty.json").read_text())["slices"]["target in training"]
    models = ("content", "hybrid", "tiger-paper", "tiger", "sasrec-init", "two-stage-without", "two-stage")
    rows = [
        [name, f"{found['users']:,}", *(f"{found[model]['ndcg@10']:.4f}" for model in models)]
        for name, found in parts.items()
    ]
    heads = ["training events of the target", "users", *models]
    heads[heads.index("tiger")] = "tiger-no-memory"  # these files are of T5s without a memory
    return markdown_table(heads, rows).replace("-without", " without T5 and codes") + "\n"


def warm_start_table(folder: Path) -> str:
    """Markdown: going on from a parent against training from scratch, by data set and cut."""
    lines, commands = [], []
    for file in sorted(folder.glob("warm_start/*.json")):
        content = json.loads(file.read_text())
        commands.append(f"`{content['command']}`")
        compared = {row["cut"]: row for row in content["compared"]}
        refits = {row["cut"]: row for row in content["refit"]}
        for row in content["rows"]:
            cells = [content["dataset"].capitalize(), row["day"], row["model"], f"{row['users']:,}"]
            cells += [f"{row['ndcg@10']:.4f}", f"{row['recall@10']:.4f}"]
            cells.append("" if row["model"] == "stale" else f"{row['cpu_seconds']:,.0f}")
            ratios, changed = compared.get(row["cut"]), refits.get(row["cut"])
            own = row["model"] not in ("stale", "scratch") and ratios is not None
            shares = [ratios["cost ratio"], ratios["steps ratio"]] if own and ratios else []
            cells.append(f"{ratios['ndcg@10 ratio']:.2f}" if own and ratios else "")
            cells.append(" / ".join(f"{share:.0%}" for share in shares))
            cells.append(f"{changed['changed_ids']:.0%}" if row["model"] == "scratch" and changed else "")
            lines.append(cells)
    if not lines:
        return "It was not measured yet.\n"
    heads = ["data set", "trained up to", "model", "users asked", "N@10", "R@10", "CPU seconds"]
    heads += ["N@10 of scratch's", "CPU seconds / steps of scratch's", "IDs that the refit changed"]
    return f"{markdown_table(heads, lines, left=3)}\n\nBy {', '.join(commands)}.\n"


def pair(metrics: dict | None, k: int = 10) -> str:
    """Recall and NDCG as the tables show them."""
    if not metrics:
        return ""
    ndcg = metrics.get(f"ndcg@{k}")
    return f"{metrics[f'recall@{k}']:.4f}" + (f" / {ndcg:.4f}" if ndcg is not None else "")


def ranking_summary(folder: Path) -> str:
    """Markdown: what the page of the ranking benchmark says before it comes to single data sets, but for its title."""
    text = (folder / "ranking" / "README.md").read_text().split("\n## ")[0].split("\n", 1)[1]
    return text.replace("(ranking.png)", "(../recipes/results/ranking/ranking.png)").strip() + "\n"


def updated(page: str, name: str, text: str) -> str:
    """Replace the text between the markers of that name."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]


def main() -> None:
    readme, page, results = ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "recipes" / "results"
    tables = results_tables(results)
    readme.write_text(updated(readme.read_text(), "summary", summary_table(results)))
    text = updated(updated(page.read_text(), "results", tables), "ranking", ranking_summary(results))
    page.write_text(updated(text, "slices", slices_table(results)))
    updates = ROOT / "docs" / "catalog_updates.md"
    updates.write_text(updated(updates.read_text(), "warm start", warm_start_table(results)))
    print(tables)


if __name__ == "__main__":
    main()
