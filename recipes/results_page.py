"""The results as a page with plots: ``python recipes/results_page.py`` writes ``recipes/results/README.md``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from tables import HEADLINE, PAPER, pair, results_tables

from tiger.utils.markdown import markdown_table

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

LEAKS = ("as they are", "ahead too")  # rows that say what a leak would have given
PARTS = ("valid", "test")
ROOT = Path(__file__).parents[1]


def page(folder: Path) -> str:
    """Markdown: accuracy, what it cost, what each step of the recipe gave, and recall by beams."""
    parts = [
        "# Accuracy",
        "Test, next item, full catalog, printed from the files beside this page by "
        "`python recipes/results_page.py`. How to read the settings stands in the README of the project.",
        results_tables(folder),
        "## What it costs",
        "![NDCG against training time](cost.png)",
        costs_table(folder),
    ]
    if any(folder.glob("beams/*.json")):
        parts += ["## How many beams", "![Recall against beams](beams.png)"]
        parts += [
            f"`{content['command']}`: {content['users']:,} {content['part']} users, {content['hardware']}. "
            f"{content.get('note', '')}".strip()
            for content in map(_read, sorted(folder.glob("beams/*.json")))
        ]
    for content in map(_read, sorted(folder.glob("ablation/*.json"))):
        parts += [f"## From the paper's recipe to ours, {content['dataset'].capitalize()}", ablation_table(content)]
    if any(folder.glob("default/*/*.json")):
        parts += ["## One configuration for any data set", default_table(folder)]
    for content in map(_read, sorted(folder.glob("ensemble/*.json"))):
        parts += [f"## T5s of several seeds, {content['dataset'].capitalize()}", ensemble_table(content)]
    return "\n\n".join(parts) + "\n"


def default_table(folder: Path) -> str:
    """Markdown: recipes/default beside the recipe of the data set, in the headline setting."""
    lines = []

    def headline(file: Path) -> str:
        rows = [row["metrics"] for row in _read(file) if row["setting"] == HEADLINE] if file.exists() else []
        return pair(rows[0] if rows else None)

    for dataset in sorted(path.name for path in (folder / "default").iterdir()):
        name = "tiger-no-memory"
        own = headline(folder / dataset / f"{name}.json")
        lines.append([f"{dataset.capitalize()}, {name}", headline(folder / "default" / dataset / f"{name}.json"), own])
        file = folder / "two_stage" / f"{dataset}.json"
        rows = _read(file)["rows"] if file.exists() else []
        tests = [row["test"] for row in rows if (row["model"], row["setting"]) == ("two-stage", "as published")]
        own = pair(tests[0] if tests else None)
        both = headline(folder / "default" / dataset / "two-stage.json")
        lines.append([f"{dataset.capitalize()}, two-stage", both, own])
    heads = ["", "recipes/default, R@10 / N@10", "recipe of the data set, R@10 / N@10"]
    return (
        "`python recipes/pipeline.py recipes/default --dataset datasets/NAME --out runs/default/NAME --set "
        "retriever.memory=false retriever.recent_items=0 retriever.output_softmax=children "
        "two_stage.count_validation=false`: LSA's vectors in place of MiniLM's, three fits of the second stage "
        "averaged; else what the recipes of the data sets then were. One seed.\n\n"
        f"{markdown_table(heads, lines)}"
    )


def ensemble_table(content: dict) -> str:
    """Markdown: one row per seed, their mean and deviation, and what merging their answers gives."""
    alone = [row for row in content["rows"] if row["model"] == "alone"]
    named = [(f"seed {row['seed']}", row) for row in alone]
    for name, statistic in (("mean", np.mean), ("standard deviation", partial(np.std, ddof=1))):
        values = {
            part: {key: statistic([row[part][key] for row in alone]) for key in alone[0][part]} for part in PARTS
        }
        named.append((name, values))
    named += [(row["model"], row) for row in content["rows"] if row["model"] != "alone"]
    lines = [[name, *(pair(row[part]) for part in PARTS)] for name, row in named]
    heads = ["T5", "validation R@10 / N@10", "test R@10 / N@10"]
    return f"{content.get('note', '')} `{content['command']}`\n\n{markdown_table(heads, lines)}".strip()


def ablation_table(content: dict) -> str:
    """Markdown: one row per step, and what it gives: to the row above, or to "ours" where it is a change of that."""
    heads = ["step", "epochs", "CPU seconds", "parameters", "validation R@10 / N@10", "test R@10 / N@10"]
    heads += [f"N@10 that it adds, {name}" for name in ("validation", "test")]
    lines, before = [], None
    for row in content["rows"]:
        pairs = [pair(row[part]) for part in PARTS]
        gains = [f"{row[part]['ndcg@10'] - before[part]['ndcg@10']:+.4f}" if before else "" for part in PARTS]
        cost = [f"{row['epochs']:.1f}", f"{row['seconds']:.0f}", f"{row['parameters']:,}"]
        lines.append([row["step"], *cost, *pairs, *gains])
        if not row["step"].startswith("ours, "):
            before = row
    return (
        f"Every row to *ours* was to train for {content['seconds']:.0f} CPU seconds, by the speed of its first steps, "
        "which is less than the recipes train, and adds its step to the row above. Each row below is one change to "
        f"*ours*, for as many steps. One seed, {content['users']:,} users. The standard error of an N@10 is about "
        ".0025, so the small steps may be chance. Muon helps a T5 with random initialization, "
        "and not one that starts from log and words. Several T5s together are in the table of seeds. "
        f"`{content['command']}`\n\n{markdown_table(heads, lines)}"
    )


def costs(folder: Path, dataset: str) -> list[tuple[str, float, float, str, int | None]]:
    """Model, training seconds, test N@10, hardware and parameters of whatever was measured in the headline setting."""
    found = []
    for file in sorted((folder / dataset).glob("*.json")):
        for row in _read(file):
            # What a click model took is not recorded.
            if row["setting"] != HEADLINE or row["model"].endswith("-ranked"):
                continue
            training = row.get("training", {})
            seconds = training.get("seconds", row["seconds"])
            ndcg = row["metrics"]["ndcg@10"]
            found.append((row["model"], seconds, ndcg, row["hardware"], training.get("parameters")))
    t5 = max((seconds for model, seconds, *_ in found if model == "tiger-no-memory"), default=0)
    file = folder / "two_stage" / f"{dataset}.json"
    for row in _read(file)["rows"] if file.exists() else []:
        if row["setting"] == "as published" and "seeds" in row:  # else a baseline, which is in the other files
            trees = row["seconds"] / len(row["seeds"]) + sum(row.get("seconds before", {}).values())
            seconds = trees if "without T5" in row["model"] else trees + t5
            hardware = "x86_64 CPU" if "seconds before" in row else "x86_64 CPU; counting and beams were not timed"
            found.append((row["model"], seconds, row["test"]["ndcg@10"], hardware, None))
    return [row for row in found if row[1] > 0]


def costs_table(folder: Path) -> str:
    """Markdown: training seconds, hardware and parameters of each model."""
    heads = ["data set", "model", "hardware", "training seconds", "test N@10", "parameters"]
    lines = []
    for dataset in PAPER:
        for model, seconds, ndcg, hardware, parameters in sorted(costs(folder, dataset), key=lambda row: row[1]):
            shown = f"{parameters:,}" if parameters else ""
            lines.append([dataset.capitalize(), model, hardware, f"{seconds:,.0f}", f"{ndcg:.4f}", shown])
    return markdown_table(heads, lines, left=3)


def plot_costs(folder: Path) -> None:
    """NDCG@10 against training seconds, a panel a data set."""
    shown = {dataset: [row for row in costs(folder, dataset) if not row[0].endswith(LEAKS)] for dataset in PAPER}
    models = sorted({model for rows in shown.values() for model, *_ in rows})
    figure, axes = plt.subplots(1, len(PAPER), figsize=(4.4 * len(PAPER), 4.6), squeeze=False)
    for axis, (dataset, (_, paper)) in zip(axes[0], PAPER.items()):
        for number, model in enumerate(models):
            points = [(seconds, ndcg) for name, seconds, ndcg, *_ in shown[dataset] if name == model]
            style = {"marker": "osD^vP*X"[number % 8], "color": f"C{number % 10}", "linestyle": ""}
            axis.plot(*zip(*points or [(np.nan, np.nan)]), label=model, alpha=0.8, **style)
        axis.axhline(paper, color="0.6", linestyle=":", linewidth=1, label="TIGER's paper")
        axis.set_xscale("log")
        axis.set_xlim(left=1)
        axis.set_ylim(bottom=0)
        axis.set_title(dataset.capitalize(), fontsize=10, loc="left")
        axis.set_xlabel("training seconds (baselines: fit and answer)", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("test NDCG@10")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=4, loc="lower center")
    figure.tight_layout(rect=(0, 0.15, 1, 1))
    figure.savefig(folder / "cost.png", dpi=110)
    plt.close(figure)


def plot_beams(folder: Path) -> None:
    """Recall and CPU time against the number of beams."""
    found = [_read(file) for file in sorted(folder.glob("beams/*.json"))]
    if not found:
        return
    figure, (recall, cost) = plt.subplots(1, 2, figsize=(10, 3.8))
    for number, content in enumerate(found):
        beams = [row["beams"] for row in content["rows"]]
        color = f"C{number}"
        recall.plot(beams, [row["recall@10"] for row in content["rows"]], "o-", color=color, label=content["dataset"])
        recall.plot(beams, [row["recall@beams"] for row in content["rows"]], "o:", color=color, markersize=3)
        milliseconds = [1000 * row["cpu_seconds"] / content["users"] for row in content["rows"]]
        cost.plot(beams, milliseconds, "o-", color=color, label=content["dataset"])
    recall.set_ylabel("validation recall: @10 (line), among all beams (dots)", fontsize=8)
    cost.set_ylabel("CPU milliseconds a user", fontsize=8)
    for axis in (recall, cost):
        axis.set_xscale("log")
        axis.set_xticks(beams, beams)
        axis.minorticks_off()
        axis.set_xlabel("beams")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "beams.png", dpi=110)
    plt.close(figure)


def _read(file: Path):
    return json.loads(file.read_text())


def main() -> None:
    folder = ROOT / "recipes" / "results"
    plot_costs(folder)
    plot_beams(folder)
    (folder / "README.md").write_text(page(folder))
    print(folder / "README.md")


if __name__ == "__main__":
    main()
