"""Tables and plots of the ranking benchmark: ``python recipes/experiments/ranking_report.py [results_dir]``.

Writes ``README.md`` and ``ranking.png`` beside the results. Differences to random hashing are paired by seed; their p
is that of a two-sided t test over seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from scipy import stats

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from tiger.cli.common import friendly_errors  # noqa: E402
from tiger.utils.errors import DataError  # noqa: E402
from tiger.utils.markdown import markdown_table  # noqa: E402

METRICS = {
    "auc": "AUC",
    "gauc": "grouped AUC",
    "log_loss": "log loss",
    "auc_warm": "warm",
    "auc_tail": "tail",
    "auc_cold": "cold",
}
BASELINE = "random_hash"
CODES = ("unigram", "ngram", "prefix_ngram", "spm")


def read(folder: Path, shuffled: bool = False) -> dict[str, dict]:
    """The results files, by data set: the runs with labels as they are, or with shuffled ones."""
    return {
        content["dataset"]: content for content in (_load(file, shuffled) for file in sorted(folder.glob("*.json")))
    }


def _load(file: Path, shuffled: bool) -> dict:
    """
    Raises:
        DataError: runs of several settings, which can't be compared.
    """
    content = json.loads(file.read_text())
    content["runs"] = [row for row in content["runs"] if row.get("shuffle_labels", False) == shuffled]
    varied = {"codes", "kind", "budget", "seed", "metrics", "seconds"}
    settings = {
        json.dumps({k: v for k, v in row.items() if k not in varied}, sort_keys=True) for row in content["runs"]
    }
    if len(settings) > 1:
        raise DataError(f"{file} holds runs of several settings: {'; '.join(sorted(settings))}. Keep one.")
    return content


def values(content: dict, kind: str, budget: int, metric: str) -> dict[int, float]:
    """A metric by seed."""
    return {
        row["seed"]: row["metrics"][metric]
        for row in content["runs"]
        if row["kind"] == kind and row["budget"] == budget and metric in row["metrics"]
    }


def against_baseline(content: dict, kind: str, budget: int, metric: str) -> tuple[float, float]:
    """Mean difference to random hashing of the same size, paired by seed, and its p (nan: too few seeds)."""
    own, base = (values(content, name, budget, metric) for name in (kind, BASELINE))
    seeds = sorted(set(own) & set(base))
    differences = np.array([own[seed] - base[seed] for seed in seeds])
    if len(differences) < 2 or differences.std() == 0:
        return float(differences.mean()) if len(differences) else float("nan"), float("nan")
    return float(differences.mean()), float(stats.ttest_1samp(differences, 0.0).pvalue)


def chosen(content: dict, kinds: Sequence[str], metric: str, sizes: Sequence[int] = ()) -> tuple[str, int]:
    """The representation and size (of those given, or of all) with the best mean of a validation metric: what a user
    could have picked."""
    sizes = sizes or sorted({row["budget"] for row in content["runs"]})
    means = {
        (kind, size): np.mean(list(found.values()))
        for kind, size in product(kinds, sizes)
        if (found := values(content, kind, size, metric))
    }
    return max(means, key=means.get, default=(kinds[0], sizes[0]))


def questions(found: dict[str, dict]) -> str:
    """Markdown: what was asked of the benchmark, one row per question, one column per dataset."""
    lines = []

    def ask(question: str, pick: Callable[[dict], tuple[str, int]], metric: str) -> None:
        cells = []
        for content in found.values():
            kind, size = pick(content)
            difference, p = against_baseline(content, kind, size, metric)
            certain = "" if np.isnan(p) else f" (p {p:.3f})"
            text = "not run" if np.isnan(difference) else f"{difference:+.4f}{certain}"
            cells.append(f"{kind}, {size:,}: {text}")
        lines.append([question, *cells])

    def largest(kind: str) -> Callable[[dict], tuple[str, int]]:
        return lambda content: (kind, max(row["budget"] for row in content["runs"]))

    ask("Does SPM beat hashing overall, at the largest table?", largest("spm"), "auc")
    ask("And on warm items: is memory kept?", largest("spm"), "auc_warm")
    for kind in ("unigram", "ngram", "prefix_ngram"):
        ask(f"Do n-grams? {kind}", largest(kind), "auc")
    ask(
        "Codes on cold items, chosen on validation's cold items",
        lambda content: chosen(content, CODES, "valid_auc_cold"),
        "auc_cold",
    )
    ask("Does dense alone lose on warm items?", largest("dense"), "auc_warm")
    ask("spm+dense", largest("spm+dense"), "auc")
    ask("random_hash+spm", largest("random_hash+spm"), "auc")
    every = sorted({row["kind"] for content in found.values() for row in content["runs"]} - {BASELINE})
    for size in sorted({row["budget"] for content in found.values() for row in content["runs"]}):
        question = f"The best of all with {size:,} rows, chosen on validation"
        ask(question, lambda content, size=size: chosen(content, every, "valid_auc", [size]), "auc")
    ask("The best of all sizes, chosen on validation", lambda content: chosen(content, every, "valid_auc"), "auc")
    return markdown_table(["test AUC against random hashing of the same size (p over seeds)", *found], lines)


def table(content: dict) -> str:
    """Markdown: one row per representation and size."""
    kinds = list(dict.fromkeys(row["kind"] for row in content["runs"]))
    budgets = sorted({row["budget"] for row in content["runs"]})
    heads = ["representation", "rows", *METRICS.values(), "AUC - hash", "p", "cold - hash", "p"]
    lines = []
    for budget in budgets:
        means = {
            metric: {k: np.mean(list(v.values())) for k in kinds if (v := values(content, k, budget, metric))}
            for metric in METRICS
        }
        for kind in kinds:
            cells = [kind, f"{budget:,}"]
            for metric in METRICS:
                found = list(values(content, kind, budget, metric).values())
                if not found:
                    run = any(row["kind"] == kind and row["budget"] == budget for row in content["runs"])
                    cells.append(("could not run" if run else "not run") if metric == "auc" else "")
                    continue
                text = f"{np.mean(found):.4f}" + (f" ± {np.std(found, ddof=1):.4f}" if found[1:] else "")
                best = (min if metric == "log_loss" else max)(means[metric].values())
                cells.append(f"**{text}**" if np.mean(found) == best else text)
            for metric in ("auc", "auc_cold"):
                difference, p = against_baseline(content, kind, budget, metric)
                same = kind == BASELINE or np.isnan(difference)
                cells += ["", ""] if same else [f"{difference:+.4f}", "" if np.isnan(p) else f"{p:.3f}"]
            lines.append(cells)
    return markdown_table(heads, lines)


def epochs_table(content: dict, fewer: dict | None) -> str:
    """Markdown: one row per representation: validation and test with the epochs of this file, and as in ``fewer``."""
    lines = []
    for row in content["runs"]:
        cells = [row["kind"], f"{row['budget']:,}", row["epochs"], f"{row['metrics']['best_epoch']:.0f}"]
        others = fewer["runs"] if fewer else []
        same = ("kind", "budget", "seed")
        (before,) = [other["metrics"] for other in others if all(other[k] == row[k] for k in same)] or [{}]
        for metric in ("valid_auc", "auc", "auc_warm", "auc_cold"):
            cells.append(f"{row['metrics'][metric]:.4f}")
            cells.append(f"{before[metric]:.4f}" if metric in before else "")
        lines.append(cells)
    heads = ["representation", "rows", "epochs", "best"]
    heads += [f"{name}{of}" for name in ("validation", "test", "warm", "cold") for of in (" AUC", ", 2 epochs")]
    return markdown_table(heads, lines)


def stability_table(content: dict) -> str:
    """Markdown: one row per way to make the codes: the ranker's AUC, and how alike items are that share a prefix."""
    lengths = max(len(found["mean_cosine"]) for found in content["prefixes"].values())
    heads = ["codes", "AUC", "warm", "cold", "seeds", "fit, s"]
    heads += [f"cosine, {length} shared (items a prefix)" for length in range(1, lengths + 1)]
    lines = []
    groups = dict.fromkeys((row["codes"], row["kind"], row["budget"]) for row in content["runs"])
    several = len({group[1:] for group in groups}) > 1
    for name, kind, budget in groups:
        prefixes = content["prefixes"][name]
        runs = [row for row in content["runs"] if (row["codes"], row["kind"], row["budget"]) == (name, kind, budget)]
        cells = [f"{name}; {kind}, {budget:,}" if several else name]
        for key in ("auc", "auc_warm", "auc_cold"):
            values = [row["metrics"][key] for row in runs if key in row["metrics"]]
            spread = f" ± {np.std(values, ddof=1):.4f}" if values[1:] else ""
            cells.append(f"{np.mean(values):.4f}{spread}" if values else "could not run")
        cells += [str(len({row["seed"] for row in runs})), f"{prefixes['fit_seconds']:.0f}"]
        for cosine, items in zip(prefixes["mean_cosine"], prefixes["items_a_prefix"]):
            cells.append("" if cosine is None else f"{cosine:.2f} ({items:,.1f})")
        lines.append(cells + [""] * (len(heads) - len(cells)))
    return markdown_table(heads, lines)


def plot(found: dict[str, dict], file: Path) -> None:
    """AUC against the table's size, overall and cold."""
    every = list(dict.fromkeys(row["kind"] for content in found.values() for row in content["runs"]))
    colors = dict(zip(every, plt.get_cmap("tab20").colors))
    figure, axes = plt.subplots(2, len(found), figsize=(4.5 * len(found), 7), squeeze=False, sharex="col")
    for column, (name, content) in enumerate(found.items()):
        kinds = list(dict.fromkeys(row["kind"] for row in content["runs"]))
        budgets = sorted({row["budget"] for row in content["runs"]})
        for axis, metric, title in zip(axes[:, column], ("auc", "auc_cold"), ("all items", "cold items")):
            for kind in kinds:
                points = [(budget, list(values(content, kind, budget, metric).values())) for budget in budgets]
                points = [(budget, values) for budget, values in points if values]
                axis.errorbar(
                    [budget for budget, _ in points],
                    [np.mean(values) for _, values in points],
                    [np.std(values, ddof=1) if values[1:] else 0 for _, values in points],
                    marker="o",
                    markersize=4,
                    capsize=2,
                    label=kind,
                    color="black" if kind == BASELINE else colors[kind],
                    linestyle="--" if kind == BASELINE else "-",
                )
            axis.set_xscale("log")
            axis.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
            axis.minorticks_off()
            axis.set_title(f"{name}, {title}", fontsize=10, loc="left")
            axis.set_ylabel("AUC")
            axis.spines[["top", "right"]].set_visible(False)
        axes[1, column].set_xlabel("rows of the table")
    labels = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(labels.values(), labels.keys(), frameon=False, fontsize=8, ncols=5, loc="lower center")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(file, dpi=110)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "recipes/results/ranking")
    found = read(folder)
    parts = ["# How a ranker reads an item", "", "![AUC against the table's size](ranking.png)", "", questions(found)]
    for name, content in found.items():
        sizes = ", ".join(f"{value:,} {key}" for key, value in content["sizes"].items())
        seeds = sorted({row["seed"] for row in content["runs"]})
        parts += ["", f"## {name}", "", f"{sizes}; seeds {seeds}. `{content['command']}`", "", table(content)]
        pieces = {row["budget"]: row["metrics"].get("pieces") for row in content["runs"] if row["kind"] == "spm"}
        used = (f"{count:,.0f} of {budget:,}" for budget, count in sorted(pieces.items()) if count)
        parts += ["", f"Rows that `spm` has pieces for: {', '.join(used)}."] if any(pieces.values()) else []
    for name, content in read(folder / "shuffled", shuffled=True).items():
        parts += ["", f"## {name}: labels dealt out anew", ""]
        parts += ["The same lists, their labels shuffled in training, validation and test: every AUC must be .5."]
        parts += [f"`{content['command']}`", "", table(content)]
    for name, content in read(folder / "paper_ids").items():
        size = content["runs"][0]
        parts += ["", f"## {name}: {size['num_codebooks']} levels of {size['codebook_size']:,} codes", ""]
        parts += ["The sizes of arXiv 2306.08121, for the same lists."]
        parts += [f"`{content['command']}`", "", table(content)]
    for name, content in read(folder / "epochs").items():
        parts += ["", f"## {name}: more epochs", ""]
        parts += ["One seed, the epoch that is best on validation kept. The tables above train for two epochs."]
        parts += [f"`{content['command']}`", "", epochs_table(content, found.get(name))]
    for name, content in read(folder / "stability").items():
        kinds = ", ".join(dict.fromkeys(f"{row['kind']}, {row['budget']:,} rows" for row in content["runs"]))
        parts += ["", f"## {name}: where the codes come from", ""]
        parts += [f"The ranker reads {kinds}. Quantizers see what training saw, or half of it by first day;"]
        parts += [f"`levels x codes`. `{content['command']}`", "", stability_table(content)]
    (folder / "README.md").write_text("\n".join(parts) + "\n")
    plot(found, folder / "ranking.png")
    print(folder / "README.md")


if __name__ == "__main__":
    with friendly_errors():
        main()
