"""Item representations for a click ranker, compared at equal numbers of table rows on warm, tail and cold items.

    python recipes/experiments/ranking.py --dataset datasets/beauty [--kinds random_hash spm ...] [--seeds 0 1 2]

Protocol: days split the log (80% of the events train, 10% validate, 10% test). The quantizer, the vocabularies and the
slices see training events, and items with such, alone. In logs of purchases each event is one positive and four
negatives: items that the user had not had, drawn by how often others had them on the event's own day (``--days``: in
more days up to it), cold ones for a cold positive and warm ones for a warm one. So the cold and the new have the same
share among positives and negatives, and a score that is blind to users has an AUC of about .5: such scores are in
every table. A history is what the user had before that day. With ``--rating_at_least`` labels come from ratings, and
histories are what was liked. *Warm* items have training events, items of the *tail* at most five, *cold* ones none.
Results are added to a file after each run, and a run that is there already is not repeated.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.utils.logging import set_verbosity_error

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.evaluation.metrics import auc, grouped_auc, log_loss
from tiger.evaluation.results import command_line
from tiger.quantizers.auto import fit_quantizer
from tiger.quantizers.base import Quantizer
from tiger.rankers.click.dataset import (
    Impressions,
    NegativeSampling,
    counts_before,
    draw_negatives,
    first_seen,
    labeled_impressions,
    rows_and_dense,
    sampled_impressions,
)
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.hashes import code_keys
from tiger.rankers.click.initialization import CENTROIDS, start_at_centroids
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.trainer import RankerTrainer
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

GATE = "gate"
TAIL = 5  # training events that an item of the tail has at most


@dataclass
class RankingArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    results_dir: str = "recipes/results/ranking"
    embeddings: str | None = field(
        default=None,
        metadata={"help": "safetensors file of content vectors, in item order; default: LSA of the texts"},
    )
    rating_at_least: float | None = field(default=None, metadata={"help": "labels from ratings, not from negatives"})
    negatives: int = field(default=4, metadata={"help": "negatives of an event"})
    days: int = field(default=1, metadata={"help": "negatives are drawn by counts in so many days up to the event"})
    kinds: list[str] = field(
        default_factory=lambda: [
            *("random_hash", "unigram", "ngram", "prefix_ngram", "spm"),
            *("dense", "unigram+dense", "spm+dense", "random_hash+spm", "random_hash+dense"),
            *("random_hash+unigram+dense", "centroids:random_hash+unigram+dense"),
            *("gate:random_hash+unigram+dense", "gate:random_hash+spm", "gate:prefix_ngram"),
            *("dense_from_codes", "unigram+dense_from_codes", "spm+dense_from_codes"),
        ]
    )
    budgets: list[int] = field(default_factory=lambda: [3000, 10_000, 30_000], metadata={"help": "table rows"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    quantizer: str = field(default="residual-kmeans", metadata={"help": "rqvae or residual-kmeans"})
    num_codebooks: int = 4
    codebook_size: int = field(default=64, metadata={"help": "codes per level"})
    d_model: int = 32
    row_dropout: float = 0.0
    epochs: int = 2
    batch: int = field(default=512, metadata={"help": "lists per step"})
    learning_rate: float = 3e-3
    table_learning_rate: float = 0.05
    weight_decay: float = 0.01
    shuffle_labels: bool = field(default=False, metadata={"help": "a check: every AUC must come out at .5"})
    threads: int = 1


@dataclass
class Benchmark:
    """The data on which all representations are measured."""

    item_ids: list[str]
    embeddings: np.ndarray
    codes: np.ndarray
    popularity: np.ndarray
    train: Impressions
    valid: Impressions
    test: Impressions
    user_blind: dict[str, dict[str, float]]
    left_out: int = 0
    quantizer: Quantizer | None = None

    @property
    def slices(self) -> dict[str, np.ndarray]:
        """bool [items] of each slice."""
        return slices_of(self.popularity)


def slices_of(popularity: np.ndarray) -> dict[str, np.ndarray]:
    """bool [items] of each slice, from the items' training events."""
    return {"warm": popularity > 0, "tail": (popularity > 0) & (popularity <= TAIL), "cold": popularity == 0}


def main() -> None:
    (args,) = parse_arguments([RankingArguments])
    torch.set_num_threads(args.threads)
    set_verbosity_error()
    benchmark = prepare(args)
    name = Path(args.dataset).name
    Path(args.results_dir).mkdir(parents=True, exist_ok=True)
    file = Path(args.results_dir) / f"{name}.json"
    settings = {key: value for key, value in vars(args).items() if key not in ("kinds", "budgets", "seeds", "threads")}
    del settings["dataset"], settings["results_dir"]
    settings["embeddings"] = None if args.embeddings is None else Path(args.embeddings).name
    for seed in args.seeds:
        for budget in args.budgets:
            for kind in args.kinds:
                rows = json.loads(file.read_text())["runs"] if file.exists() else []
                key = {"kind": kind, "budget": budget, "seed": seed} | settings
                if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
                    continue
                start = time.perf_counter()
                try:
                    metrics = run(args, benchmark, kind, budget, seed)
                except DataError as error:
                    metrics = {"could_not_run": str(error)}
                seconds = round(time.perf_counter() - start, 1)
                rows.append(key | {"metrics": metrics, "seconds": seconds})
                print(f"{name} {kind:>16} {budget:>6} seed {seed}: {metrics} in {seconds:.0f} s", flush=True)
                content = {"dataset": name, "sizes": sizes(benchmark), "user_blind": benchmark.user_blind}
                content |= {"runs": rows, "command": command(sys.argv, rows)}
                write_atomically(file, json.dumps(content, indent=1) + "\n")


def command(argv: list[str], rows: list[dict]) -> str:
    """The command line that makes all rows of a file, of which this run may have made a part."""
    parts = {"--kinds": "kind", "--budgets": "budget", "--seeds": "seed"}
    kept, part = [], False
    for word in argv:
        part = word in parts or (part and not word.startswith("--"))
        kept += [] if part else [word]
    for option, name in parts.items():
        kept += [option, *map(str, dict.fromkeys(row[name] for row in rows))]
    return command_line(kept)


def prepare(args: RankingArguments) -> Benchmark:
    """The split, the codes, and every list of candidates."""
    data = RecommendationData.load(args.dataset)
    split, events = data.temporal_split(), data.sequences
    popularity = np.bincount(events.items[split.train], minlength=data.num_items)
    seen = popularity > 0
    if args.embeddings:
        (embeddings,) = load_file(args.embeddings).values()
        embeddings = embeddings.astype(np.float32)
    else:
        texts = item_texts(data.items)
        encoder = LSAEncoder.fit([text for text, warm in zip(texts, seen) if warm])
        embeddings = encoder.encode(texts)
    quantizer = fit_quantizer(args.quantizer, embeddings[seen], args.num_codebooks, args.codebook_size, progress=False)
    splits, left_out, liked = (split.train, split.valid, split.test), 0, None
    if args.rating_at_least is None:
        sampling = NegativeSampling(uniform=0, popular=args.negatives, days=args.days, smoothing=0)
        drawn = [sampled(events, part, popularity, sampling, seed) for seed, part in enumerate(splits)]
        parts = [lists.select(np.flatnonzero((lists.candidates >= 0).all(axis=1))) for lists in drawn]
        left_out = sum(map(len, drawn)) - sum(map(len, parts))
    else:
        if "rating" not in data.extras:
            raise DataError(f"{args.dataset}: interactions.parquet has no column rating.")
        labels = (data.extras["rating"] >= args.rating_at_least).astype(np.float32)
        liked = only(events, labels > 0)
        parts = [labeled_impressions(events, part, labels, liked) for part in splits]
    if args.shuffle_labels:
        parts = [shuffled(part, seed) for seed, part in enumerate(parts)]
    scores = blind_scores(events, liked, parts[2], data.num_items)
    blind = {name: measure(parts[2], score, popularity) for name, score in scores.items()}
    codes = quantizer.encode(embeddings)
    found = {"user_blind": blind, "left_out": left_out, "quantizer": quantizer}
    return Benchmark(data.item_ids, embeddings, codes, popularity, *parts, **found)


def sampled(
    events: Sequences, part: np.ndarray, popularity: np.ndarray, sampling: NegativeSampling, seed: int
) -> Impressions:
    """One list for each event of a part: cold negatives for a cold positive, warm ones for a warm one."""
    negatives = np.full((len(part), sampling.uniform + sampling.popular), -1, dtype=np.int32)
    for cold in (False, True):
        allowed = (popularity == 0) == cold
        rows = np.flatnonzero(allowed[events.items[part]])
        negatives[rows] = draw_negatives(
            events, part[rows], len(popularity), sampling, allowed=allowed, seed=2 * seed + cold
        )
    return sampled_impressions(events, part, negatives)


def blind_scores(
    events: Sequences, liked: Sequences | None, lists: Impressions, num_items: int
) -> dict[str, np.ndarray]:
    """Scores float64 [n, C] of candidates that know nothing of the user, by name.

    Args:
        events: all events.
        liked: those with a positive label, where labels are ratings.
        lists: the candidates.
        num_items: items of the catalog.
    """
    assert lists.times is not None  # both kinds of lists have them
    items, times = np.maximum(lists.candidates, 0), lists.times[:, None]
    counts = counts_before(events, items, times)
    scores = {
        "day first seen": first_seen(events, num_items)[items],
        "count up to the event": counts,
        "row number": items,
        "random": np.random.default_rng(0).random(items.shape),
    }
    if liked is not None:
        # One liked event of two is what an item has before anybody has had it.
        scores["share liked up to the event"] = (counts_before(liked, items, times) + 1) / (counts + 2)
    return {name: score.astype(np.float64) for name, score in scores.items()}


def measure(lists: Impressions, scores: np.ndarray, popularity: np.ndarray) -> dict[str, float]:
    """AUC of each slice, then of all candidates, and grouped by user.

    Args:
        lists: the candidates [n, C] and their labels.
        scores: float [n, C].
        popularity: int [items], training events.
    """
    present, items = lists.labels >= 0, np.maximum(lists.candidates, 0)
    found = {}
    for name, inside in slices_of(popularity).items():
        chosen = present & inside[items]
        found[f"auc_{name}"] = auc(lists.labels[chosen], scores[chosen].astype(np.float64))
    users = np.broadcast_to(lists.users[:, None], present.shape)
    truth, flat = lists.labels[present], scores[present].astype(np.float64)
    found |= {"auc": auc(truth, flat), "gauc": grouped_auc(truth, flat, users[present])}
    # A slice with one label only has no AUC.
    return {name: round(float(value), 5) for name, value in found.items() if not np.isnan(value)}


def only(sequences: Sequences, keep: np.ndarray) -> Sequences:
    """The events where ``keep`` is True."""
    counts = np.bincount(sequences.users[keep], minlength=len(sequences))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Sequences(offsets, sequences.items[keep], sequences.timestamps[keep])


def shuffled(impressions: Impressions, seed: int) -> Impressions:
    """The same lists with labels dealt out anew."""
    labels, present = impressions.labels.copy(), impressions.labels >= 0
    labels[present] = np.random.default_rng(seed).permutation(labels[present])
    return replace(impressions, labels=labels)


def training_arguments(args: RankingArguments, seed: int) -> TrainingArguments:
    """The same for every ranker."""
    return TrainingArguments(
        "runs/ranking",
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch,
        per_device_eval_batch_size=4 * args.batch,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=seed,
    )


def run(args: RankingArguments, benchmark: Benchmark, kind: str, budget: int, seed: int) -> dict[str, float]:
    """Train one ranker, keep its best epoch on validation, and measure that on test.

    Args:
        kind: of the features; after ``centroids:``, rows of codes start at centroids of their items' vectors; after
            ``gate:``, an item's own rows are weighed by its training events.
    """
    *options, features_kind = kind.split(":")
    if not set(options) <= {CENTROIDS, GATE}:
        raise DataError(f"{kind}: before a colon stands {CENTROIDS} or {GATE}.")
    features = ItemFeatures.fit(
        features_kind, budget, benchmark.codes, args.codebook_size, impressions=benchmark.popularity, seed=seed
    )
    rows, dense = rows_and_dense(
        features, benchmark.item_ids, benchmark.codes, benchmark.embeddings, benchmark.quantizer
    )
    set_seed(seed)
    sizes = {"d_model": args.d_model, "row_dropout": args.row_dropout, "gate": GATE in options}
    model = SemanticIdRanker(ranker_config(features, dense_dim=benchmark.embeddings.shape[1], **sizes))
    if CENTROIDS in options:
        start_at_centroids(model, features, rows, benchmark.embeddings, seed)
    best = KeepBest(model)
    trainer = RankerTrainer(
        model,
        training_arguments(args, seed),
        benchmark.train,
        benchmark.valid,
        item_rows=rows,
        dense=dense,
        table_learning_rate=args.table_learning_rate,
        counts=benchmark.popularity,
        callbacks=[best],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.load_state_dict(best.weights)
    found = {"valid_auc": round(best.auc, 5), "best_epoch": best.epoch}
    if features.num_pieces:
        found["pieces"] = features.num_pieces
    cold = measure(benchmark.valid, trainer.predict(benchmark.valid)[0], benchmark.popularity).get("auc_cold")
    found |= {} if cold is None else {"valid_auc_cold": cold}
    logits, labels = trainer.predict(benchmark.test)[:2]
    found |= measure(benchmark.test, logits, benchmark.popularity)
    present = labels >= 0
    loss = log_loss(labels[present], 1 / (1 + np.exp(-logits[present].astype(np.float64))))
    return found | {"log_loss": round(loss, 5)}


class KeepBest(TrainerCallback):
    """Keeps the weights of the best evaluation in memory."""

    def __init__(self, model: SemanticIdRanker):
        self._model, self.auc, self.epoch, self.weights = model, -1.0, 0, {}

    def on_evaluate(self, args, state, control, metrics=None, **_):
        if metrics["eval_auc"] > self.auc:
            self.auc, self.epoch = metrics["eval_auc"], round(state.epoch)
            self.weights = {name: weight.clone() for name, weight in self._model.state_dict().items()}


def sizes(benchmark: Benchmark) -> dict[str, int]:
    """Sizes of the benchmark."""
    parts = {name: getattr(benchmark, name) for name in ("train", "valid", "test")}
    counts = {f"{name} lists": len(part) for name, part in parts.items()}
    if benchmark.left_out:
        counts["lists left out for want of negatives"] = benchmark.left_out
    labels, cold = benchmark.test.labels, benchmark.popularity[np.maximum(benchmark.test.candidates, 0)] == 0
    return counts | {
        "items": len(benchmark.item_ids),
        "semantic IDs": len(np.unique(code_keys(benchmark.codes, int(benchmark.codes.max()) + 1))),
        "cold items": int((benchmark.popularity == 0).sum()),
        "test positives": int((labels == 1).sum()),
        "of them cold": int((cold & (labels == 1)).sum()),
        "test negatives": int((labels == 0).sum()),
        "of these cold": int((cold & (labels == 0)).sum()),
    }


if __name__ == "__main__":
    with friendly_errors():
        main()
