"""NDCG@10 of every model on slices of the test users, from the ranks of their targets.

    python recipes/experiments/slices.py --dataset datasets/beauty --ranks tiger-paper=runs/beauty/ranks/FILE [...]

A file of ranks is what ``recipes/evaluate.py --ranks_dir`` leaves: uint8 [users] by setting, 255 where the target is
not in the list. Baselines are measured here. Slices: whether training holds the step from the last item to the target
(within three places), how often training holds the target, how long the history is, and whether target and last item
are of one category. Writes ``<dataset>.json`` and ``<dataset>.png``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from safetensors.numpy import load_file

from tiger.data.cooccurrence import follower_counts
from tiger.data.dataset import RecommendationData
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.baselines import fitted_baselines
from tiger.evaluation.evaluator import evaluate, rank_bytes
from tiger.evaluation.metrics import metrics_of_ranks
from tiger.evaluation.results import command_line
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

MISS = 255
SETTING = "as published, history removed"
COUNTS = {"0-4": (0, 4), "5-9": (5, 9), "10-19": (10, 19), "20 or more": (20, np.inf)}
LENGTHS = {"2-4": (0, 4), "5-9": (5, 9), "10-19": (10, 19), "20 or more": (20, np.inf)}


@dataclass
class SlicesArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    ranks: list[str] = field(default_factory=list, metadata={"help": "NAME=FILE of further models"})
    results_dir: str = field(default="recipes/results/slices", metadata={"help": "where JSON and figure go"})


def main() -> None:
    (args,) = parse_arguments([SlicesArguments])
    data = RecommendationData.load(args.dataset)
    split = data.leave_one_out()
    places = baseline_places(data, split) | given_places(args.ranks, len(split.users))
    slices = slices_of(data, split)
    rows = {
        kind: {
            name: {"users": int(users.sum())} | {model: metrics(found[users]) for model, found in places.items()}
            for name, users in parts.items()
        }
        for kind, parts in slices.items()
    }
    name = Path(args.dataset).name
    content = {"dataset": name, "setting": SETTING, "slices": rows, "command": command_line(sys.argv)}
    folder = Path(args.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    draw(content, folder / f"{name}.png")
    for kind, parts in rows.items():
        for part, found in parts.items():
            values = "  ".join(f"{model} {found[model]['ndcg@10']:.4f}" for model in places)
            print(f"{kind}: {part} ({found['users']} users)  {values}")


def baseline_places(data: RecommendationData, split: LeaveOneOut) -> dict[str, np.ndarray]:
    """Places of the targets in the lists of the training-free methods, uint8 [users]."""
    texts, histories, targets = item_texts(data.items, required=False), split.test_histories, split.test_targets
    fitted = fitted_baselines(split.train, texts)
    found = {name: evaluate(model.recommend, histories, targets, (10,)) for name, model in fitted.items()}
    return {name: rank_bytes(evaluation, 10) for name, evaluation in found.items()}


def given_places(ranks: list[str], users: int) -> dict[str, np.ndarray]:
    """
    Raises:
        DataError: a file is of other users, or lacks the setting.
    """
    found = {}
    for text in ranks:
        name, _, file = text.partition("=")
        if not file:
            raise DataError(f"--ranks {text}: give NAME=FILE.")
        places = load_file(file)
        if "ranks" in places:  # one fit of recipes/experiments/refits.py: places among all candidates
            places = {SETTING: np.where(places["ranks"] < 10, places["ranks"], MISS).astype(np.uint8)}
        if SETTING not in places or len(places[SETTING]) != users:
            raise DataError(f"{file} has no places of {users} users {SETTING!r}: make it with recipes/evaluate.py.")
        found[name] = places[SETTING]
    return found


def slices_of(data: RecommendationData, split: LeaveOneOut) -> dict[str, dict[str, np.ndarray]]:
    """Users by what is known of their step: bool [users] by the name of the slice, by the kind of slice."""
    histories, targets = split.test_histories, np.asarray(split.test_targets)
    last = histories.items[histories.offsets[1:] - 1]
    steps = follower_counts(split.train, data.num_items, 3)
    seen = np.asarray(steps[last, targets]).ravel() > 0
    counts = np.bincount(split.train.items, minlength=data.num_items)[targets]
    found = {
        "step": {"seen in training": seen, "unseen": ~seen},
        "target in training": {name: (counts >= low) & (counts <= high) for name, (low, high) in COUNTS.items()},
        "history": {
            name: (histories.lengths >= low) & (histories.lengths <= high) for name, (low, high) in LENGTHS.items()
        },
    }
    if "categories" in data.items.column_names:
        category = np.unique(data.items["categories"].to_pandas().fillna("").astype(str), return_inverse=True)[1]
        same = category[last] == category[targets]
        found["category"] = {"that of the last item": same, "another": ~same}
    return found


def metrics(places: np.ndarray) -> dict[str, float]:
    """Recall and NDCG at 10 of places, uint8 [users]."""
    found = metrics_of_ranks(places.astype(int), MISS, (10,))
    return {name: round(float(values.mean()), 5) for name, values in found.items()} if len(places) else {}


def draw(content: dict, file: Path) -> None:
    """One panel per kind of slice, bars of all models in each slice."""
    slices = content["slices"]
    figure, axes = plt.subplots(1, len(slices), figsize=(5 * len(slices), 4.2))
    for axis, (kind, parts) in zip(np.atleast_1d(axes), slices.items()):
        models = [name for name in next(iter(parts.values())) if name != "users"]
        width = 0.8 / len(models)
        for number, model in enumerate(models):
            heights = [found[model].get("ndcg@10", 0.0) for found in parts.values()]
            axis.bar(np.arange(len(parts)) + number * width, heights, width, label=model)
        axis.set_xticks(np.arange(len(parts)) + 0.4 - width / 2)
        axis.set_xticklabels([f"{name}\n{found['users']:,} users" for name, found in parts.items()], fontsize=8)
        axis.set_title(kind, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel(f"NDCG@10, {content['dataset']}")
    np.atleast_1d(axes)[-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
