"""Beam search without the trie: share of answers that are no item, and what recall and time the trie costs or wins.

    python recipes/experiments/invalid_ids.py --dataset datasets/beauty --recommenders rqvae=runs/paper/beauty/model

Every token may follow every other, as in a plain ``generate``; the encoder is the recommender's own. Recall@10 of test
users is counted in three ways: *as they come*, the ten most probable sequences, of which those that are no item are
misses; *items only*, the ten most probable that are items; *trie*, the search under the trie with as many beams. A
checkpoint of the training of the first recommender may be named too. Writes ``<dataset>.json`` and ``<dataset>.png``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
from transformers import T5ForConditionalGeneration

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.evaluation.results import write_experiment
from tiger.evaluation.training_split import split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.beam_search import CPU_USERS, beam_search
from tiger.retriever.config import history_item_length, uses_child_softmax
from tiger.retriever.data_collator import EvaluationCollator
from tiger.retriever.dataset import EvaluationExamples
from tiger.retriever.inference_decoder import PackedDecoder
from tiger.retriever.inference_model import packed
from tiger.retriever.model import TigerT5
from tiger.training.arguments import parse_arguments
from tiger.training.validation_counts import without_validation_counts
from tiger.utils.errors import DataError

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

PLACES = (10, 20, 50)
PAPER = {10: (0.001, 0.016), 20: (0.003, 0.06)}  # share of invalid IDs, arXiv 2305.05065
WAYS = ("as they come", "items only", "trie")


@dataclass
class InvalidIdsArguments:
    dataset: str = field(metadata={"help": "dataset directory that the models were trained on"})
    recommenders: list[str] = field(metadata={"help": "NAME=FOLDER of each saved recommender"})
    checkpoints: list[str] = field(
        default_factory=list, metadata={"help": "of the first one's training, with weights"}
    )
    results_dir: str = field(default="recipes/results/invalid_ids", metadata={"help": "where JSON and figure go"})
    beams: list[int] = field(default_factory=lambda: [10, 20, 50])
    users: int = field(default=2000, metadata={"help": "test users, drawn with seed 0"})


@dataclass
class Found:
    """Answers of some users.

    Args:
        rows: int64 [users, beams], rows of the catalog, best first; -1 where the tokens are no item's.
        known: bool [users, beams], whether some item has these codes, if with another collision token.
        trie, removed: int64 [users, 10], the trie's, with the history kept and removed.
        seconds: CPU seconds without the trie, and with it.
    """

    rows: np.ndarray
    known: np.ndarray
    trie: np.ndarray
    removed: np.ndarray
    seconds: np.ndarray


def main() -> None:
    (args,) = parse_arguments([InvalidIdsArguments])
    data = RecommendationData.load(args.dataset)
    rows: list[dict] = []
    for name, tiger in recommenders(args):
        if tiger.tokenizer.item_ids != data.item_ids:
            raise DataError(f"{name}: the recommender knows other items than {args.dataset} holds.")
        if uses_child_softmax(tiger.model):
            raise DataError(f"{name}: its probabilities are among the trie's children, so it can't go without.")
        split, _ = split_of_model(data, np.arange(data.num_items), tiger.training, args.dataset)
        split = without_validation_counts(tiger, split)
        users = EvaluationExamples(*split.part("test"), tiger.max_history).sample(args.users)
        for beams in args.beams:
            rows.append({"model": name, "beams": beams, **measured(tiger, users, beams)})
            print(rows[-1], flush=True)
            found = {"users": len(users), "part": "test", "rows": rows}
            draw(*write_experiment(found, args.dataset, args.results_dir))


def recommenders(args: InvalidIdsArguments) -> Iterator[tuple[str, TigerRecommender]]:
    """The recommenders by name, then the first one with the weights of each checkpoint."""
    device = torch.accelerator.current_accelerator() or "cpu"
    for text in args.recommenders:
        name, _, folder = text.partition("=")
        if not folder:
            raise DataError(f"--recommenders {text}: give NAME=FOLDER.")
        yield name, TigerRecommender.from_pretrained(folder, device, rank=False)
    for checkpoint in args.checkpoints:
        if not (Path(checkpoint) / "model.safetensors").exists():
            raise DataError(f"{checkpoint} holds no weights (model.safetensors): give a checkpoint that does.")
        first = TigerRecommender.from_pretrained(args.recommenders[0].partition("=")[2], device, rank=False)
        first.model = TigerT5.from_pretrained(checkpoint).to(first.device).eval()
        yield Path(checkpoint).name, first


def measured(tiger: TigerRecommender, users: EvaluationExamples, beams: int) -> dict:
    """Share of invalid answers by place, recalls, and CPU milliseconds a user."""
    order = users.by_length()
    parts = [
        searched(tiger, users, some, beams) for some in np.split(order, np.arange(CPU_USERS, len(order), CPU_USERS))
    ]
    rows, known, trie, removed = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "known", "trie", "removed")
    )
    seen = [set(users[user]["seen"].tolist()) for user in order]
    new = np.array([[row >= 0 and row not in items for row in found] for found, items in zip(rows.tolist(), seen)])
    targets = users.targets[order]
    places = [place for place in PLACES if place <= beams]
    free, under = sum(part.seconds for part in parts) * 1000 / len(order)
    kept = {"as they come": rows, "items only": moved_up(rows, rows >= 0), "trie": trie}
    return {
        "invalid": {str(place): share(rows[:, :place] < 0) for place in places},
        "invalid by the collision token alone": {
            str(place): share((rows < 0)[:, :place] & known[:, :place]) for place in places
        },
        "recall@10, history kept": {way: recall(found, targets) for way, found in kept.items()},
        "recall@10, history removed": {
            "items only": recall(moved_up(rows, new), targets),
            "trie": recall(removed, targets),
        },
        "cpu milliseconds a user": {"without": round(float(free), 2), "trie": round(float(under), 2)},
    }


def searched(tiger: TigerRecommender, users: EvaluationExamples, some: np.ndarray, beams: int) -> Found:
    """Search for some users without the trie, and with it."""
    tokenizer = tiger.tokenizer
    batch = EvaluationCollator(tokenizer)([users[user] for user in some])
    histories, seen = (batch[name].to(tiger.device) for name in ("input_ids", "seen"))
    packed(tiger.model, torch.float32)  # made once; no search's time
    times = [time.process_time()]
    tokens = free_search(tiger.model, tokenizer.depth, histories, beams)[0].cpu().numpy()
    times.append(time.process_time())
    trie = beam_search(tiger.model, tiger.trie, histories, beams, k=10)
    times.append(time.process_time())
    removed = beam_search(tiger.model, tiger.trie, histories, beams, k=10, excluded=seen)
    levels = tokenizer.num_codebooks
    size = tokenizer.vocab_size ** np.arange(levels)
    known = np.isin(tokens[..., :levels] @ size, tokenizer.token_table[:, :levels].astype(np.int64) @ size)
    answers = (found.rows.cpu().numpy() for found in (trie, removed))
    return Found(tokenizer.decode(tokens), known, *answers, np.diff(times))


@torch.inference_mode()
def free_search(
    model: T5ForConditionalGeneration, depth: int, histories: torch.Tensor, num_beams: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find probable sequences of tokens after each history by beam search over the whole vocabulary.

    Args:
        model: a T5 whose probabilities are among all tokens.
        depth: tokens of a sequence.
        histories: int64 [B, S], history tokens, padded on the right.

    Returns:
        int64 [B, beams, depth], best first, and their log-probabilities, float32 [B, beams].
    """
    weights = packed(model, torch.float32)
    decoder = PackedDecoder(weights, weights.encode(histories, history_item_length(model, depth)))
    batch, vocabulary = len(histories), torch.arange(model.config.vocab_size, device=histories.device)
    tokens = histories.new_full((batch, 1), decoder.start_token)
    scores = torch.zeros(batch, 1, device=histories.device)
    written = histories.new_zeros((batch, 1, 0))
    for level in range(depth):
        allowed = torch.ones(batch, scores.shape[1], len(vocabulary), dtype=torch.bool, device=histories.device)
        candidates = (scores.unsqueeze(-1) + decoder.step(tokens, vocabulary, allowed)).flatten(1)
        scores, picked = candidates.topk(min(num_beams, candidates.shape[1]))
        before, tokens = picked // len(vocabulary), picked % len(vocabulary)
        written = written.gather(1, before.unsqueeze(-1).expand(-1, -1, level))
        written = torch.cat([written, tokens.unsqueeze(-1)], dim=-1)
        if level < depth - 1:
            decoder.keep(before)
    return written, scores


def moved_up(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen rows in their order, int64 [users, beams], then -1."""
    order = np.argsort(~chosen, axis=1, kind="stable")
    return np.take_along_axis(np.where(chosen, rows, -1), order, axis=1)


def recall(rows: np.ndarray, targets: np.ndarray) -> float:
    """Recall@10 of rows int64 [users, places], best first."""
    return share((rows[:, :10] == targets[:, None]).any(axis=1))


def share(found: np.ndarray) -> float:
    return round(float(found.mean()), 5)


def draw(content: dict, file: Path) -> None:
    """Shares of invalid answers, recalls and times, by model and number of beams."""
    rows = content["rows"]
    figure, (invalid, recalls, times) = plt.subplots(1, 3, figsize=(14, 4.2))
    at = np.arange(len(rows))
    for number, place in enumerate(PLACES):
        values = [100 * row["invalid"].get(str(place), np.nan) for row in rows]
        invalid.bar(at + 0.27 * number, values, 0.27, color=f"C{number}", label=f"top {place}")
        if place in PAPER:
            low, high = PAPER[place]
            invalid.axhspan(100 * low, 100 * high, color=f"C{number}", alpha=0.12, label=f"the paper, top {place}")
    invalid.set_yscale("log")
    invalid.set_ylim(0.005, 20)
    invalid.set_title(f"Answers that are no item, %, {content['dataset']}", loc="left", fontsize=10)
    for number, way in enumerate(WAYS):
        heights = [row["recall@10, history kept"][way] for row in rows]
        recalls.bar(at + 0.27 * number, heights, 0.27, color=f"C{number + 3}", label=way)
    recalls.set_title("Test recall@10, history kept", loc="left", fontsize=10)
    for number, (way, label) in enumerate({"without": "without the trie", "trie": "trie"}.items()):
        heights = [row["cpu milliseconds a user"][way] for row in rows]
        times.bar(at + 0.4 * number, heights, 0.4, color=("0.5", "C5")[number], label=label)
    times.set_title(f"CPU milliseconds a user, {content['hardware']}", loc="left", fontsize=10)
    for axis in (invalid, recalls, times):
        axis.set_xticks(at + 0.27, [f"{row['model']}\n{row['beams']} beams" for row in rows], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, loc="upper left" if axis is invalid else "lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    with friendly_errors():
        main()
