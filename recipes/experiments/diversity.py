"""Diversity by temperature: entropy of the categories of the answers, and recall, of test users.

    python recipes/experiments/diversity.py --dataset datasets/beauty --recommender runs/paper/beauty/model

Samples without replacement (``temperature`` of :func:`tiger.retriever.beam_search.beam_search`), at all levels of the
codes and at the first one only, beside the search without chance. Entropy@k: of the categories of a user's k answers,
in nats, mean over users (after arXiv 2305.05065, section 4.4, which doesn't name the logarithm). History removed.
Writes ``<dataset>.json`` and ``<dataset>.png``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import next_item_metrics
from tiger.evaluation.results import write_experiment
from tiger.evaluation.training_split import split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.beam_search import CPU_USERS, beam_search
from tiger.retriever.data_collator import EvaluationCollator
from tiger.retriever.dataset import EvaluationExamples
from tiger.semantic_ids.code_tree import categories_at
from tiger.training.arguments import parse_arguments
from tiger.training.validation_counts import without_validation_counts
from tiger.utils.errors import DataError

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

PLACES = (10, 20, 50)
PAPER = {1.0: 0.76, 1.5: 1.14, 2.0: 1.38}  # entropy@10 by temperature, arXiv 2305.05065
LEVELS = {"all levels": None, "first level": 1}


@dataclass
class DiversityArguments:
    dataset: str = field(metadata={"help": "dataset directory, its items with `categories` such as Beauty > Hair"})
    recommender: str = field(metadata={"help": "a saved recommender"})
    results_dir: str = field(default="recipes/results/diversity", metadata={"help": "where JSON and figure go"})
    temperatures: list[float] = field(default_factory=lambda: [0.5, 1.0, 1.5, 2.0])
    num_beams: int = 50
    users: int = field(default=1500, metadata={"help": "test users, drawn with seed 0"})
    level: int = field(default=2, metadata={"help": "of the category paths: 2 tells Beauty > Hair from Beauty > Skin"})
    seed: int = field(default=0, metadata={"help": "of the samples"})


def main() -> None:
    (args,) = parse_arguments([DiversityArguments])
    data = RecommendationData.load(args.dataset)
    categories = categories_at(data.items, args.level)
    if not (categories != "").any():
        raise DataError(f"{args.dataset}: no item has a category at level {args.level} of its path.")
    tiger = TigerRecommender.from_pretrained(
        args.recommender, torch.accelerator.current_accelerator() or "cpu", rank=False
    )
    if tiger.tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.recommender} knows other items than {args.dataset} holds.")
    split, _ = split_of_model(data, np.arange(data.num_items), tiger.training, args.dataset)
    split = without_validation_counts(tiger, split)
    users = EvaluationExamples(*split.part("test"), tiger.max_history).sample(args.users)
    settings: list[tuple[str, float | None]] = [("search", None)]
    settings += [(name, temperature) for name in LEVELS for temperature in args.temperatures]
    found = {"users": len(users), "part": "test", "num_beams": args.num_beams}
    found |= {"categories": len(set(categories) - {""}), "entropy of the catalog": entropy_of_catalog(categories)}
    rows: list[dict] = []
    for name, temperature in settings:
        answers = sampled(args, tiger, users, temperature, LEVELS.get(name))
        rows.append({"sampled": name, "temperature": temperature} | measured(answers, users.targets, categories))
        print(rows[-1], flush=True)
        draw(*write_experiment(found | {"rows": rows}, args.dataset, args.results_dir))


def sampled(
    args: DiversityArguments,
    tiger: TigerRecommender,
    users: EvaluationExamples,
    temperature: float | None,
    levels: int | None,
) -> np.ndarray:
    """Answers without items of the history, int64 [users, num_beams]; -1 where there are fewer."""
    collate, order = EvaluationCollator(tiger.tokenizer), users.by_length()
    generator = torch.Generator(tiger.device).manual_seed(args.seed)
    answers = np.full((len(users), args.num_beams), -1, dtype=np.int64)
    for some in np.split(order, np.arange(CPU_USERS, len(order), CPU_USERS)):
        batch = collate([users[user] for user in some])
        histories, seen = (batch[name].to(tiger.device) for name in ("input_ids", "seen"))
        beams = beam_search(
            tiger.model,
            tiger.trie,
            histories,
            args.num_beams,
            excluded=seen,
            temperature=temperature,
            generator=generator,
            sampled_levels=levels,
        )
        answers[some] = beams.rows.cpu().numpy()
    return answers


def measured(answers: np.ndarray, targets: np.ndarray, categories: np.ndarray) -> dict[str, float]:
    """Entropy of the categories, recall and NDCG of answers, and the number of different items in all first tens."""
    places = [place for place in PLACES if place <= answers.shape[1]]
    found = {f"entropy@{place}": category_entropy(answers[:, :place], categories) for place in places}
    wide = np.pad(answers, ((0, 0), (0, max(0, 10 - answers.shape[1]))), constant_values=-1)
    found |= next_item_metrics(wide, targets, places or (10,))
    found = {name: round(float(value), 5) for name, value in found.items()}
    return found | {"items in the top 10": len(set(answers[:, :10].ravel().tolist()) - {-1})}


def category_entropy(answers: np.ndarray, categories: np.ndarray) -> float:
    """Entropy of the categories of each user's answers, in nats, mean over the users that have any.

    Args:
        answers: int [users, k], rows; -1 where there is none.
        categories: string [items]; items without one, "", are left out.
    """
    names, label = np.unique(categories, return_inverse=True)
    counts = np.zeros((len(answers), len(names)))
    known = (answers >= 0) & (categories[answers] != "")
    np.add.at(counts, (np.nonzero(known)[0], label[answers[known]]), 1)
    counts = counts[counts.sum(axis=1) > 0]
    shares = counts / counts.sum(axis=1, keepdims=True)
    return float(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1).mean()) if len(counts) else 0.0


def entropy_of_catalog(categories: np.ndarray) -> float:
    """Entropy of the categories of all items, in nats."""
    return round(category_entropy(np.arange(len(categories))[None], categories), 5)


def draw(content: dict, file: Path) -> None:
    """Entropy by temperature, beside the paper's, and recall by entropy."""
    rows = content["rows"]
    figure, (entropy, trade) = plt.subplots(1, 2, figsize=(10.5, 4.2))
    for number, name in enumerate(LEVELS):
        own = [row for row in rows if row["sampled"] == name]
        temperatures = [row["temperature"] for row in own]
        for place, style in zip(PLACES, ("o-", "s--", "^:")):
            if f"entropy@{place}" in rows[0]:
                values = [row[f"entropy@{place}"] for row in own]
                entropy.plot(temperatures, values, style, color=f"C{number}", label=f"{name}, top {place}")
        trade.plot([row["entropy@10"] for row in own], [row["recall@10"] for row in own], "o-", label=name)
        for row in own:
            trade.annotate(f" {row['temperature']:g}", (row["entropy@10"], row["recall@10"]), fontsize=8)
    entropy.plot(list(PAPER), list(PAPER.values()), "kx--", label="the paper, top 10")
    entropy.axhline(rows[0]["entropy@10"], color="0.6", linewidth=1, label="search, top 10")
    trade.plot(rows[0]["entropy@10"], rows[0]["recall@10"], "k*", markersize=10, label="search")
    entropy.set_xlabel("temperature")
    entropy.set_title(f"Entropy of categories, nats, {content['dataset']}", loc="left", fontsize=10)
    trade.set_xlabel("entropy of categories in the top 10, nats")
    trade.set_title("Test recall@10, by entropy and temperature", loc="left", fontsize=10)
    for axis in (entropy, trade):
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    with friendly_errors():
        main()
