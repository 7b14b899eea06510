"""Contribution of each source to the second stage: without the T5, semantic IDs, both, or dates.

    python recipes/experiments/two_stage.py --recommender runs/beauty/model --dataset datasets/beauty

Trees are fitted to validation targets and chosen on users kept apart (``held out``); the test is read once a variant.
As the trees have seen validation's targets, a hybrid whose counts include them stands beside the hybrid.
Intervals are 95% of bootstraps over users; ``p`` is a two-sided paired bootstrap's against the hybrid. What a source
gives is the mean over users of ``two-stage`` less the row without it, with the same interval and p. With ties
shuffled the T5 is left out: it was trained on the published order, under which other items are tests. So are codes
that were learned from the log.
Every row is added to a file, and what is there is not measured again; beams are kept in ``--cache``. What leaks would
give is measured by ``recipes/experiments/leaks.py``, and what sources give over refits by
``recipes/experiments/refits.py``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.baselines import Hybrid
from tiger.evaluation.metrics import next_item_metrics_per_user
from tiger.evaluation.results import command_line
from tiger.evaluation.significance import bootstrap_interval, bootstrap_p
from tiger.evaluation.training_split import split_of_model, suffix_of
from tiger.rankers.two_stage.candidates import Candidates, Proposals
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments
from tiger.training.validation_counts import with_validation_counts, without_validation_counts
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

VARIANTS = {
    "two-stage": (),
    "two-stage without T5": ("t5",),
    "two-stage without codes": ("codes",),
    "two-stage without T5 and codes": ("t5", "codes"),
    "two-stage without dates": ("time",),
    "two-stage, mean of 3 fits": (),
}
NUM_SEEDS = {"two-stage, mean of 3 fits": 3}
REFITTED = "hybrid-with-validation"


@dataclass
class TwoStageExperiment:
    recommender: str = field(metadata={"help": "a saved recommender: its T5 and its codes"})
    dataset: str = field(metadata={"help": "the dataset directory that it was trained on"})
    embeddings: str | None = field(default=None, metadata={"help": "content vectors; default: the encoder's"})
    results_dir: str = field(default="recipes/results/two_stage", metadata={"help": "where the JSON file goes"})
    cache: str = field(default="runs/two_stage", metadata={"help": "where the T5's beams are kept"})
    num_beams: int = 50
    num_proposed: int = 150
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of the trees"})
    tie_seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "ties shuffled"})
    variants: list[str] = field(default_factory=list, metadata={"help": "only these rows; default: all"})


def main() -> None:
    (args,) = parse_arguments([TwoStageExperiment], sys.argv[1:])
    device = torch.accelerator.current_accelerator() or "cpu"
    tiger = TigerRecommender.from_pretrained(args.recommender, device, rank=False)
    data = RecommendationData.load(args.dataset)
    if tiger.tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.recommender} knows other items than {args.dataset} holds.")
    vectors = content_vectors(args.embeddings, tiger, data)
    for ties in (None, *args.tie_seeds):
        split = data.leave_one_out(ties)
        beams = {part: None for part in ("valid", "test")}
        if ties == tiger.training.get("shuffle_ties"):
            split, _ = split_of_model(data, np.arange(data.num_items), tiger.training, args.dataset)
            split = without_validation_counts(tiger, split)
            beams = {part: proposed(args, tiger, split, part) for part in beams}
        codes = tiger.tokenizer.codes
        if tiger.tokenizer.learned_split not in (None, {"shuffle_ties": ties}):
            codes = None
        measure(args, data, split, codes, vectors, beams, ties)


def content_vectors(file: str | None, tiger: TigerRecommender, data: RecommendationData) -> np.ndarray | None:
    """Vectors of the items' texts, float32 [items, dimensions], of a file or the encoder's; None: neither is there."""
    if file:
        return load_embeddings(file, data.num_items)
    if tiger.encoder is None:
        return None
    return tiger.encoder.encode(item_texts(data.items, tiger.training.get("template")))


def proposed(
    args: TwoStageExperiment, tiger: TigerRecommender, split: LeaveOneOut, part: str, count_validation: bool = False
) -> tuple[np.ndarray, np.ndarray, float]:
    """The T5's beams for a part of the users, and how long they took, kept for the next run of the same model.

    Args:
        count_validation: count validation events in the memory; it goes on counting them, or not, from here.
    """
    # Here, since every script of this folder gets its beams here.
    if count_validation:
        with_validation_counts(tiger, split)
    else:
        split = without_validation_counts(tiger, split)
    name = f"{Path(args.dataset).name}-{digest(*weights_of(tiger))}-{args.num_beams}-{part}"
    file = Path(args.cache) / f"{name}{suffix_of(tiger.training)}.safetensors"
    kept = load_file(file) if file.exists() else {}
    if "seconds" in kept:
        return kept["rows"], kept["scores"], float(kept["seconds"])
    start = time.perf_counter()
    with torch.autocast(tiger.device.type, torch.bfloat16):
        rows, scores = tiger.recommend_rows(
            split.part(part)[0], k=args.num_beams, num_beams=args.num_beams, progress=True, rank=False
        )
    seconds = time.perf_counter() - start
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, save({"rows": rows, "scores": scores, "seconds": np.array(seconds)}))
    return rows, scores, seconds


def add_row(args: TwoStageExperiment, row: dict) -> None:
    content = results(args)
    # Of the row, not of the file: rows of other seeds and variants come from other calls.
    content["rows"].append(row | {"command": command_line(sys.argv)})
    file = Path(args.results_dir) / f"{content['dataset']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(content, indent=1) + "\n")


def results(args: TwoStageExperiment) -> dict:
    """Read the results that were measured before."""
    file = Path(args.results_dir) / f"{Path(args.dataset).name}.json"
    return json.loads(file.read_text()) if file.exists() else {"dataset": Path(args.dataset).name, "rows": []}


def measure(
    args: TwoStageExperiment,
    data: RecommendationData,
    split: LeaveOneOut,
    codes: np.ndarray | None,
    vectors: np.ndarray | None,
    beams: dict,
    ties: int | None,
) -> None:
    """One row per variant, beside the hybrid's."""
    variants = VARIANTS
    setting = "as published" if ties is None else f"ties shuffled, seed {ties}"
    if beams["valid"] is None:
        variants = {name: without for name, without in variants.items() if "t5" in without}
    if codes is None:
        variants = {name: without for name, without in variants.items() if "codes" in without}
    of = {"semantic_ids": None if codes is None else digest(codes), "t5": None}
    if beams["test"] is not None:
        of["t5"] = digest(beams["test"][1])
    rows = [row for row in results(args)["rows"] if row["setting"] == setting]
    if any(row.get("of", of) != of for row in rows):
        raise DataError(f"{args.results_dir} holds rows of another recommender: remove them, or give another folder.")
    there = {row["model"] for row in rows}
    wanted = {name for name in variants if not args.variants or name in args.variants}
    if there >= wanted:
        return
    start = time.perf_counter()
    candidates = Candidates.fit(split.train, data.items, codes=codes, vectors=vectors, num_proposed=args.num_proposed)
    proposals: dict[str, Proposals] = {}
    for part, given in beams.items():
        proposals[part] = candidates.propose(split.part(part)[0], *(given or ())[:2], progress=True)
        if part == "valid":  # what the trees learn from; the test's proposals are no training
            counting = round(time.perf_counter() - start)
            before = {"beams": round(given[2]) if given else 0, "counting and proposing": counting}
    targets = {part: split.part(part)[1] for part in beams}
    hybrid = Hybrid().fit(split.train, item_texts(data.items)).recommend(split.part("test")[0])[0]
    base = next_item_metrics_per_user(hybrid, targets["test"])
    if "hybrid" not in there:
        add_row(args, {"model": "hybrid", "setting": setting, "test": means([base])})
    refitted = Hybrid().fit(split.test_histories, item_texts(data.items)).recommend(split.part("test")[0])[0]
    informed = next_item_metrics_per_user(refitted, targets["test"])
    if REFITTED not in there:
        add_row(args, {"model": REFITTED, "setting": setting, "test": means([informed])})
    for name, without in variants.items():
        if args.variants and name not in args.variants:
            continue
        if name in there:
            continue
        start, users, records = time.perf_counter(), [], []
        for seed in args.seeds:
            ranker = TwoStageRanker.fit(
                candidates,
                proposals["valid"],
                targets["valid"],
                without=without,
                seed=seed,
                num_seeds=NUM_SEEDS.get(name, 1),
            )
            found = candidates.without_beams(proposals["test"]) if "t5" in without else proposals["test"]
            users.append(next_item_metrics_per_user(ranker.best(found, 10)[0], targets["test"]))
            records.append(ranker.record)
        row = {"model": name, "setting": setting, "seeds": args.seeds, "test": means(users), "std": spread(users)}
        row["held out"] = {
            metric: round(float(np.mean([record[f"held out {metric}"] for record in records])), 5)
            for metric in ("recall@10", "ndcg@10")
        }
        own = np.mean([found["ndcg@10"] for found in users], axis=0)
        row["interval of ndcg@10"], row["p against the hybrid"] = interval(own), bootstrap_p(own - base["ndcg@10"])
        row[f"p against {REFITTED}"] = bootstrap_p(own - informed["ndcg@10"])
        whole = kept_users(args, setting, of, name, own).get("two-stage")
        if whole is not None and name != "two-stage":
            row["two-stage less this, ndcg@10"] = {
                "mean": round(float((whole - own).mean()), 5),
                "interval": interval(whole - own),
                "p": bootstrap_p(whole - own),
            }
        row["seconds before"] = before if "t5" not in without else before | {"beams": 0}
        row |= {"trees": [record["trees"] for record in records], "seconds": round(time.perf_counter() - start)}
        row["of"] = of
        row["recall of the candidates, validation"] = round(records[0]["recall of the candidates"], 4)
        add_row(args, row)
        print(row, flush=True)


def weights_of(tiger: TigerRecommender) -> list[np.ndarray]:
    """Weights of a recommender's T5 and memory, on which its beams depend."""
    weights = [weight.detach().float().cpu().numpy() for weight in tiger.model.parameters()]
    if tiger.memory is None:
        return weights
    known = tiger.memory.weights
    numbers = known.floor, known.popularity, known.t5_weight, known.t5_floor
    return [*weights, known.kernels, np.array(numbers, dtype=np.float64)]


def digest(*arrays: np.ndarray) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of arrays' values."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def means(users: list[dict[str, np.ndarray]]) -> dict[str, float]:
    return {name: round(float(np.mean([found[name] for found in users])), 5) for name in users[0]}


def spread(users: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Standard deviation over seeds."""
    if len(users) < 2:
        return {}
    return {name: round(float(np.std([found[name].mean() for found in users], ddof=1)), 5) for name in users[0]}


def kept_users(
    args: TwoStageExperiment, setting: str, of: dict, name: str, values: np.ndarray
) -> dict[str, np.ndarray]:
    """NDCG@10 of each user by row, of this row and of those that were measured before with the same models."""
    made_by = hashlib.sha256(json.dumps([setting, of, args.seeds, args.num_proposed]).encode()).hexdigest()[:16]
    file = Path(args.cache) / f"{Path(args.dataset).name}-{made_by}-users.safetensors"
    users = (load_file(file) if file.exists() else {}) | {name: values}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, save(users))
    return users


def interval(values: np.ndarray) -> list[float]:
    return [round(value, 5) for value in bootstrap_interval(values)]


if __name__ == "__main__":
    with friendly_errors():
        main()
