"""Tables and plots of the ranking benchmark: ``python recipes/experiments/ranking_report.py [results_dir]``.

Writes ``README.md`` and ``ranking.png`` beside the results. Slices come first and all candidates last; scores that are
blind to users open every table. Differences to random hashing are paired by seed; their p is that of a two-sided t
test over seeds.
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
    "auc_warm": "warm",
    "auc_cold": "cold",
    "auc_tail": "tail",
    "auc": "overall",
    "gauc": "grouped by user",
    "log_loss": "log loss",
}
SLICES = ("auc_warm", "auc_cold", "auc_tail", "auc")
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
    """Mean difference to random hashing of the same size, paired by seed, and its p (nan: fewer than three seeds)."""
    own, base = (values(content, name, budget, metric) for name in (kind, BASELINE))
    seeds = sorted(set(own) & set(base))
    differences = np.array([own[seed] - base[seed] for seed in seeds])
    if len(differences) < 3 or differences.std() == 0:
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
    largest = {name: max(row["budget"] for row in content["runs"]) for name, content in found.items()}

    def ask(question: str, pick: Callable[[dict], tuple[str, int]], metric: str) -> None:
        cells = []
        for content in found.values():
            if not any(metric in row["metrics"] for row in content["runs"]):
                cells.append("")
                continue
            kind, size = pick(content)
            difference, p = against_baseline(content, kind, size, metric)
            text = "not run" if np.isnan(difference) else f"{difference:+.4f}{probability(p, ' (p {})')}"
            cells.append(f"{kind}: {text}")
        lines.append([question, *cells])

    every = sorted({row["kind"] for content in found.values() for row in content["runs"]} - {BASELINE})
    for metric in SLICES:
        for kind in ("spm", "unigram", "dense"):
            ask(f"{METRICS[metric]}: {kind}", lambda content, kind=kind: (kind, largest[content["dataset"]]), metric)
        for name, kinds in (("the best of codes", CODES), ("the best of all", every)):
            valid = "valid_auc_cold" if metric == "auc_cold" else "valid_auc"
            ask(
                f"{METRICS[metric]}: {name}, chosen on validation",
                lambda content, kinds=kinds, valid=valid: chosen(content, kinds, valid, [largest[content["dataset"]]]),
                metric,
            )
    heads = [f"{name}, {largest[name]:,} rows" for name in found]
    return markdown_table(["test AUC less that of random hashing (p over seeds)", *heads], lines)


def probability(p: float, shape: str = "{}") -> str:
    """A p as the tables show it; nothing where there is none."""
    return "" if np.isnan(p) else shape.format("< 0.001" if p < 0.001 else f"{p:.3f}")


def blind_rows(content: dict, metrics: Sequence[str], before: int, after: int) -> list[list[str]]:
    """Rows of a table for the scores that are blind to users: empty cells, these metrics, and empty cells again."""
    return [
        [f"*{name}*"]
        + [""] * before
        + [f"{values[metric]:.4f}" if metric in values else "" for metric in metrics]
        + [""] * after
        for name, values in content.get("user_blind", {}).items()
    ]


def table(content: dict) -> str:
    """Markdown: scores that are blind to users, then one row per representation and size."""
    kinds = list(dict.fromkeys(row["kind"] for row in content["runs"]))
    budgets = sorted({row["budget"] for row in content["runs"]})
    compared = ("auc_warm", "auc_cold", "auc")
    heads = ["representation", "rows", "seeds", *METRICS.values()]
    heads += [name for metric in compared for name in (f"{METRICS[metric]} - hash", "p")]
    lines = blind_rows(content, list(METRICS), before=2, after=2 * len(compared))
    for budget in budgets:
        means = {
            metric: {k: np.mean(list(v.values())) for k in kinds if (v := values(content, k, budget, metric))}
            for metric in METRICS
        }
        for kind in kinds:
            runs = [row for row in content["runs"] if (row["kind"], row["budget"]) == (kind, budget)]
            cells = [kind, f"{budget:,}", str(len({row["seed"] for row in runs}))]
            for metric in METRICS:
                found = list(values(content, kind, budget, metric).values())
                if not found:
                    cells.append(("could not run" if runs else "not run") if metric == "auc" else "")
                    continue
                text = f"{np.mean(found):.4f}" + (f" ± {np.std(found, ddof=1):.4f}" if found[1:] else "")
                best = (min if metric == "log_loss" else max)(means[metric].values())
                cells.append(f"**{text}**" if np.mean(found) == best else text)
            for metric in compared:
                difference, p = against_baseline(content, kind, budget, metric)
                same = kind == BASELINE or np.isnan(difference)
                cells += ["", ""] if same else [f"{difference:+.4f}", probability(p)]
            lines.append(cells)
    return markdown_table(heads, lines)


def blindness(found: dict[str, dict]) -> str:
    """Markdown: the scores that are blind to users, hashing, and the best ranker, by slice; one row for each."""
    heads = ["test AUC", *(f"{name}, {METRICS[metric]}" for name in found for metric in SLICES)]
    rows: dict[str, dict[str, dict]] = {}
    for name, content in found.items():
        for score, values_ in content.get("user_blind", {}).items():
            rows.setdefault(f"*{score}*", {})[name] = values_
    every = sorted({row["kind"] for content in found.values() for row in content["runs"]})
    for label, kinds in ((BASELINE, [BASELINE]), ("the best ranker, chosen on validation", every)):
        for name, content in found.items():
            kind, size = chosen(content, kinds, "valid_auc", [max(row["budget"] for row in content["runs"])])
            means = {
                metric: np.mean(list(values(content, kind, size, metric).values()) or [np.nan]) for metric in SLICES
            }
            rows.setdefault(label, {})[name] = means
    lines = []
    for label, row in rows.items():
        cells = [row.get(name, {}).get(metric, np.nan) for name in found for metric in SLICES]
        lines.append([label, *("" if np.isnan(cell) else f"{cell:.3f}" for cell in cells)])
    return markdown_table(heads, lines)


def negatives_table(content: dict) -> str:
    """Markdown: one row per way to draw negatives and score that is blind to users."""
    heads = ["negatives", "cold positives", "cold negatives", "lists left out", "score"]
    heads += [METRICS[metric] for metric in SLICES]
    lines = []
    for row in content["rows"]:
        for score, values_ in row["user_blind"].items():
            if score == "random":
                continue
            shares = [f"{row[name]:.1%}" for name in ("cold_positives", "cold_negatives")]
            cells = [row["negatives"], *shares, f"{row['left_out']:,}", score]
            lines.append(cells + [f"{values_[metric]:.3f}" if metric in values_ else "" for metric in SLICES])
    return markdown_table(heads, lines)


def epochs_table(content: dict, fewer: dict | None) -> str:
    """Markdown: one row per representation: validation and test with the epochs of this file, and as in ``fewer``."""
    lines = []
    for row in content["runs"]:
        cells = [row["kind"], f"{row['budget']:,}", row["epochs"], f"{row['metrics']['best_epoch']:.0f}"]
        others = fewer["runs"] if fewer else []
        same = ("kind", "budget", "seed")
        (before,) = [other["metrics"] for other in others if all(other[k] == row[k] for k in same)] or [{}]
        for metric in ("valid_auc", *SLICES):
            cells.append(f"{row['metrics'][metric]:.4f}" if metric in row["metrics"] else "")
            cells.append(f"{before[metric]:.4f}" if metric in before else "")
        lines.append(cells)
    heads = ["representation", "rows", "epochs", "best"]
    names = ["validation", *(f"test {METRICS[metric]}" for metric in SLICES)]
    heads += [f"{name}{of}" for name in names for of in (" AUC", ", 2 epochs")]
    blind = [
        [f"*{name}*", "", "", "", "", ""]
        + [cell for metric in SLICES for cell in (f"{found[metric]:.4f}" if metric in found else "", "")]
        for name, found in content.get("user_blind", {}).items()
    ]
    return markdown_table(heads, blind + lines)


def stability_table(content: dict) -> str:
    """Markdown: one row per way to make the codes: the ranker's AUC, and how alike items are that share a prefix."""
    lengths = max(len(found["mean_cosine"]) for found in content["prefixes"].values())
    metrics = ("auc_warm", "auc_cold", "auc")
    heads = ["codes", *(METRICS[metric] for metric in metrics), "seeds", "fit, s"]
    heads += [f"cosine, {length} shared (items a prefix)" for length in range(1, lengths + 1)]
    lines = blind_rows(content, metrics, before=0, after=2 + lengths)
    groups = dict.fromkeys((row["codes"], row["kind"], row["budget"]) for row in content["runs"])
    several = len({group[1:] for group in groups}) > 1
    for name, kind, budget in groups:
        prefixes = content["prefixes"][name]
        runs = [row for row in content["runs"] if (row["codes"], row["kind"], row["budget"]) == (name, kind, budget)]
        cells = [f"{name}; {kind}, {budget:,}" if several else name]
        for key in metrics:
            values = [row["metrics"][key] for row in runs if key in row["metrics"]]
            spread = f" ± {np.std(values, ddof=1):.4f}" if values[1:] else ""
            cells.append(f"{np.mean(values):.4f}{spread}" if values else "could not run")
        cells += [str(len({row["seed"] for row in runs})), f"{prefixes['fit_seconds']:.0f}"]
        for cosine, items in zip(prefixes["mean_cosine"], prefixes["items_a_prefix"]):
            cells.append("" if cosine is None else f"{cosine:.2f} ({items:,.1f})")
        lines.append(cells + [""] * (len(heads) - len(cells)))
    return markdown_table(heads, lines)


def plot(found: dict[str, dict], file: Path) -> None:
    """AUC of each representation, and of scores that are blind to users, on warm, cold and tail items."""
    figure, axes = plt.subplots(1, len(found), figsize=(3.6 * len(found) + 1.5, 5), squeeze=False)
    for axis, (name, content) in zip(axes[0], found.items()):
        budget = max(row["budget"] for row in content["runs"])
        kinds = list(dict.fromkeys(row["kind"] for row in content["runs"] if row["budget"] == budget))
        labels = [*content.get("user_blind", {}), *kinds]
        for number, metric in enumerate(SLICES[:3]):
            drawn = {kind: list(values(content, kind, budget, metric).values()) for kind in kinds}
            drawn |= {score: [row[metric]] for score, row in content.get("user_blind", {}).items() if metric in row}
            places = [place for place, label in enumerate(labels) if drawn.get(label)]
            means = [np.mean(drawn[labels[place]]) for place in places]
            spread = [np.std(drawn[labels[place]], ddof=1) if drawn[labels[place]][1:] else 0 for place in places]
            style = {"linestyle": "", "marker": "osD"[number], "markersize": 5, "label": METRICS[metric]}
            axis.errorbar(means, places, xerr=spread, color=f"C{number}", **style)
        axis.axvline(0.5, color="0.6", linestyle=":", linewidth=1)
        axis.axhline(len(content.get("user_blind", {})) - 0.5, color="0.8", linewidth=1)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("test AUC", fontsize=8)
        axis.set_title(f"{name}, {budget:,} rows", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8, ncols=3, loc="lower center")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(file, dpi=100)
    plt.close(figure)


def section(name: str, content: dict) -> list[str]:
    """Markdown lines of one data set: sizes, the command, and the table."""
    sizes = ", ".join(f"{value:,} {key}" for key, value in content["sizes"].items())
    seeds = sorted({row["seed"] for row in content["runs"]})
    parts = ["", f"## {name}", "", f"{sizes}; seeds {seeds}. `{content['command']}`", "", table(content)]
    pieces = {row["budget"]: row["metrics"].get("pieces") for row in content["runs"] if row["kind"] == "spm"}
    used = (f"{count:,.0f} of {budget:,}" for budget, count in sorted(pieces.items()) if count)
    return parts + (["", f"Rows that `spm` has pieces for: {', '.join(used)}."] if any(pieces.values()) else [])


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "recipes/results/ranking")
    found = read(folder)
    parts = ["# How a ranker reads an item", ""]
    parts += ["![AUC of representations and of scores that are blind to users](ranking.png)", ""]
    parts += [blindness(found), "", questions(found)]
    for file in sorted((folder / "negatives").glob("*.json")):
        content = json.loads(file.read_text())
        parts += ["", f"## {content['dataset']}: how negatives are drawn", ""]
        parts += ["Test AUC of scores that are blind to users; the last way is that of the tables below."]
        parts += [f"`{content['command']}`", "", negatives_table(content)]
    for name, content in found.items():
        parts += section(name, content)
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
