"""Meaning of the codes: categories and likeness of the items that share a prefix, and what the log says of them.

    python recipes/experiments/code_meaning.py --dataset datasets/beauty --embeddings embeddings.safetensors \\
        --tokenizers rqvae=runs/paper/beauty/tokenizer random=runs/paper/beauty/random

Per kind of codes and prefix length: *purity*, the share of the items that are of the most frequent category of their
prefix, among items that share it with another, beside the same of shuffled categories, which is what groups of these
sizes have by chance; mean *cosine* of two items with that prefix (Singh et al., arXiv 2306.08121); and
:func:`tiger.quantizers.log_report.log_report`, D3 and D4 after SIDScope. The first kind is drawn in full and described
by :class:`tiger.semantic_ids.code_tree.CodeTree`. Writes ``<dataset>.json`` and ``<dataset>.png``.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.embeddings.base import load_embeddings
from tiger.evaluation.results import command_line
from tiger.quantizers.log_report import log_report, prefix_groups
from tiger.semantic_ids.code_tree import CodeTree, categories_at
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SHUFFLES = 20  # of the categories; the standard error of the mean is far below .001 on 12,000 items
SINGH = (0.41, 0.68, 0.91, 0.97)  # mean cosine by length of the common prefix, as the paper prints it
LEAST = 100  # items with a prefix of a length in common, for that length to be drawn
SHOWN = 9  # categories with a color of their own


@dataclass
class CodeMeaningArguments:
    dataset: str = field(metadata={"help": "dataset directory, its items with `categories` such as Beauty > Hair"})
    tokenizers: list[str] = field(metadata={"help": "NAME=FOLDER of each kind of codes; the first is drawn in full"})
    embeddings: str = field(metadata={"help": "safetensors with the items' vectors"})
    level: int = field(default=2, metadata={"help": "of the category paths: 2 tells Beauty > Hair from Beauty > Skin"})
    results_dir: str = field(default="recipes/results/code_meaning", metadata={"help": "where JSON and figure go"})


def main() -> None:
    (args,) = parse_arguments([CodeMeaningArguments])
    data = RecommendationData.load(args.dataset)
    vectors = load_embeddings(args.embeddings, data.num_items)
    tokenizers = read_tokenizers(args.tokenizers, data)
    categories = categories_at(data.items, args.level)
    train = data.leave_one_out().train
    kinds = {
        name: measured(tokenizer.codes, categories, vectors) | log_report(tokenizer.codes, train)
        for name, tokenizer in tokenizers.items()
    }
    first = next(iter(tokenizers))
    name = Path(args.dataset).name
    content = {
        "dataset": name,
        "items": data.num_items,
        "items with a category": int((categories != "").sum()),
        "categories": len(set(categories) - {""}),
        "cosine of any two": cosine_within(np.zeros(data.num_items, dtype=int), unit(vectors)),
        "kinds": kinds,
        f"first codes, {first}": described(CodeTree(tokenizers[first], data.items)),
        "hardware": f"{platform.machine()} CPU",
        "command": command_line(sys.argv),
    }
    folder = Path(args.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", json.dumps(rounded(content), indent=1, ensure_ascii=False) + "\n")
    finer = categories_at(data.items, args.level + 1)
    draw(content, tokenizers[first].codes, (categories, finer), folder / f"{name}.png")
    for kind, found in kinds.items():
        print(kind, {key: found[key] for key in ("purity", "purity_by_chance", "cosine", "cooccurrence_lift")})


def read_tokenizers(texts: list[str], data: RecommendationData) -> dict[str, SemanticIdTokenizer]:
    """
    Raises:
        DataError: a text is not ``NAME=FOLDER``, or a tokenizer is of other items.
    """
    found = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not folder:
            raise DataError(f"--tokenizers {text}: give NAME=FOLDER.")
        found[name] = SemanticIdTokenizer.from_pretrained(folder)
        if found[name].item_ids != data.item_ids:
            raise DataError(f"{folder} has other items than the dataset holds: fit it on this dataset.")
    return found


def measured(codes: np.ndarray, categories: np.ndarray, vectors: np.ndarray) -> dict[str, list]:
    """Purity, its value by chance, and cosine of the items under the prefixes of each length."""
    groups, directions = prefix_groups(codes), unit(vectors)
    found: dict[str, list] = {"prefixes": [int(group.max()) + 1 for group in groups]}
    found["cosine"] = [cosine_within(group, directions) for group in groups]
    known = categories != ""
    labels = np.unique(categories[known], return_inverse=True)[1]
    found["items_that_share"] = [int(size[size > 1].sum()) for size in map(np.bincount, groups)]
    random = np.random.default_rng(0)
    shuffles = [random.permutation(labels) for _ in range(SHUFFLES)]
    found["purity"] = [purity(group[known], [labels]) for group in groups]
    found["purity_by_chance"] = [purity(group[known], shuffles) for group in groups]
    return found


def purity(group: np.ndarray, labelings: list[np.ndarray]) -> float | None:
    """Share of the items of the most frequent label of their group, among those that share a group; None: none does.

    Args:
        group: int [n], numbered from 0 on.
        labelings: int [n] each, likewise; the mean over them is returned.
    """
    if not len(group):
        return None
    values = [_purity(group, labels) for labels in labelings]
    return None if np.isnan(values).any() else float(np.mean(values))


def _purity(group: np.ndarray, labels: np.ndarray) -> float:
    counts = np.zeros((group.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(counts, (group, labels), 1)
    counts = counts[counts.sum(axis=1) > 1]
    return counts.max(axis=1).sum() / counts.sum() if counts.size else np.nan


def unit(vectors: np.ndarray) -> np.ndarray:
    """Directions of vectors, float64 [n, d]; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def cosine_within(group: np.ndarray, directions: np.ndarray) -> float | None:
    """Mean cosine of all pairs of items of one group; None: there are no pairs.

    Args:
        group: int [n], numbered from 0 on.
        directions: float [n, d], of length 1.
    """
    sums = np.zeros((group.max() + 1, directions.shape[1]))
    np.add.at(sums, group, directions)
    sizes = np.bincount(group).astype(float)
    pairs = (sizes * (sizes - 1)).sum()
    return float((np.square(sums).sum() - np.square(directions).sum()) / pairs) if pairs else None


def described(tree: CodeTree, most: int = 8) -> list[dict]:
    """The first codes with the most items, what these have in common, and one title under each second code."""
    found = []
    for code, items in tree.children([])[:most]:
        shared = tree.shared([code], limit=3)
        below = [
            {"codes": [code, second], "items": count, "title": tree.titles[int(tree.under([code, second])[0])]}
            for second, count in tree.children([code])[:3]
        ]
        row = {"code": code, "items": items}
        row |= {name: [f"{one.value} ({one.count})" for one in values] for name, values in shared.items()}
        found.append(row | {"second codes": below})
    return found


def rounded(value):
    """The same with floats of five digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def draw(content: dict, codes: np.ndarray, categories: tuple[np.ndarray, np.ndarray], file: Path) -> None:
    """Categories by first code and, under the fullest one, by second code; then purity, cosine and lift by length."""
    figure = plt.figure(figsize=(13, 8.4))
    grid = figure.add_gridspec(2, 6)
    first, names = next(iter(content["kinds"])), f"first code, {content['dataset']}"
    fullest = np.bincount(codes[:, 0]).argmax()
    under = codes[:, 0] == fullest
    shares(figure.add_subplot(grid[0, :4]), codes[:, 0], categories[0], f"Category by {names}, {first}")
    title = f"Under first code {fullest}, by second code"
    shares(figure.add_subplot(grid[0, 4:]), codes[under, 1], categories[1][under], title)
    curves = {
        "purity": "Purity (dotted: shuffled categories)",
        "cosine": "Mean cosine of two items with one prefix",
        "cooccurrence_lift": "Lift of near pairs of the log over chance",
    }
    for place, (key, title) in enumerate(curves.items()):
        axis = figure.add_subplot(grid[1, 2 * place : 2 * place + 2])
        for number, (kind, found) in enumerate(content["kinds"].items()):
            # Codes that say little leave few items together at the end: chance alone.
            lengths = sum(items >= LEAST for items in found["items_that_share"])
            line(axis, found[key][:lengths], color=f"C{number}", marker="o", label=kind)
            if key == "purity":
                line(axis, found["purity_by_chance"][:lengths], color=f"C{number}", linestyle=":")
        if key == "cosine":
            line(axis, SINGH, color="0.4", linestyle="--", marker="x", label="Singh et al., another data set")
        if key == "cooccurrence_lift":
            axis.set_yscale("log")
            axis.axhline(1, color="0.7", linewidth=1)
        else:
            axis.set_ylim(0, 1)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("codes in common")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


def line(axis, values, **style) -> None:
    """A curve over the lengths 1, 2, ..., without those that have no value."""
    points = [(length, value) for length, value in enumerate(values, 1) if value is not None]
    if points:
        axis.plot(*zip(*points), **style)


def shares(axis, codes: np.ndarray, categories: np.ndarray, title: str) -> None:
    """Share of each category among the items of every code, codes of one main category side by side."""
    axis.set_title(title, loc="left", fontsize=10)
    if not (categories != "").any():
        axis.text(0.5, 0.5, "no item has a category", ha="center", va="center")
        axis.set_axis_off()
        return
    categories = np.where(categories == "", "no category", categories)
    names, counts = np.unique(categories, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")][:SHOWN]
    used, group = np.unique(codes, return_inverse=True)
    label = np.array([list(names).index(name) if name in names else len(names) for name in categories])
    table = np.zeros((len(used), len(names) + 1))
    np.add.at(table, (group, label), 1)
    table /= table.sum(axis=1, keepdims=True)
    table = table[np.lexsort((-table.max(axis=1), table.argmax(axis=1)))]
    below = np.zeros(len(used))
    for number, name in enumerate([*names, "others"]):
        if table[:, number].any():
            color = f"C{number}" if number < len(names) else "0.8"
            axis.bar(np.arange(len(used)), table[:, number], 1.0, below, color=color, label=name)
        below += table[:, number]
    axis.set(xlim=(-0.5, len(used) - 0.5), ylim=(0, 1), xticks=[], ylabel="share of the items")
    axis.set_xlabel(f"{len(used)} codes, by their main category")
    axis.legend(fontsize=7, ncols=2, loc="lower left")


if __name__ == "__main__":
    with friendly_errors():
        main()
