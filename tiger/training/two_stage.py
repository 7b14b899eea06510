"""Train the two-stage ranker of a saved recommender: trees over candidates from the T5, the log and the texts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tiger.data.dataset import RecommendationData
from tiger.data.identity import ITEMS, TRAIN, check_same_data, table_digest, train_digest
from tiger.data.repeats import excludes_history
from tiger.data.sequences import Sequences
from tiger.data.splits import ALL, LEAVE_ONE_OUT, SPLIT_HELP, LeaveOneOut
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.training_split import known_digests, split_of_model
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.choice import BY_HYBRID, BY_T5, BY_TREES
from tiger.rankers.two_stage.ranker import NothingToLearn, TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.parent import Parent, load_parent, refuse_other
from tiger.training.tokenizer import vectors_of
from tiger.training.validation_counts import with_validation_counts, without_validation_counts
from tiger.utils import devices
from tiger.utils.errors import DataError

# Settings that trees which are kept can't follow any more.
_FITTED_BY = ("num_beams", "users", "max_trees", "learning_rate", "num_leaves", "seed", "num_seeds", "time_dropout")

# Settings that are fields of TwoStageOptions too.
_OPTIONS = ("max_trees", "learning_rate", "num_leaves", "seed", "num_seeds", "time_dropout", "keep")


@dataclass
class TwoStageArguments:
    """Settings of :func:`train_two_stage`; the keys of a recipe's ``two_stage.yaml``."""

    recommender: str = field(metadata={"help": "a saved recommender; the ranker is saved into it"})
    dataset: str = field(metadata={"help": "the dataset directory that it was trained on"})
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors file of content vectors; default: the recommender's encoder"}
    )
    num_beams: int = field(default=50, metadata={"help": "beams of the T5 that are ranked too"})
    num_proposed: int = field(default=150, metadata={"help": "candidates from the log and the texts"})
    users: int = field(
        default=50_000,
        metadata={"help": "maximum number of users to train on (40 kB each), sampled if there are more"},
    )
    max_trees: int = field(
        default=600, metadata={"help": "maximum number of trees; the number is chosen on held-out users"}
    )
    learning_rate: float = field(default=0.04, metadata={"help": "learning rate of the trees"})
    num_leaves: int = field(default=31, metadata={"help": "maximum leaves per tree"})
    seed: int = field(default=0, metadata={"help": "seed of the trees, and of the sample of users"})
    num_seeds: int = field(default=1, metadata={"help": "models averaged over seeds"})
    time_dropout: float = field(
        default=0.0,
        metadata={"help": "share of the users whose times are hidden; 0: histories without end on the log's last day"},
    )
    keep: str = field(
        default="auto",
        metadata={
            "help": "auto: the trees where they are better than the hybrid by two standard errors, and than the T5, "
            "on users held out, else the hybrid's order, or no second stage where the T5's is better; trees: always"
        },
    )
    exclude_history: bool | None = field(
        default=None,
        metadata={"help": "leave out items of the history; default: as the T5 was trained"},
    )
    count_validation: bool = field(
        default=False,
        metadata={
            "help": "once the trees are fitted or dropped, count validation events too, in the second stage and the "
            "memory, as a recommender in use counts all so far; names of what is measured then end in -with-validation"
        },
    )
    split: str = field(default=LEAVE_ONE_OUT, metadata={"help": SPLIT_HELP + "; the trees are those of init_from"})
    init_from: str | None = field(
        default=None,
        metadata={"help": "directory of a recommender whose trees are kept with split all; else they are fitted anew"},
    )


def train_two_stage(args: TwoStageArguments) -> TwoStageRanker | None:
    """Fit trees to the validation items, which the T5 must not have seen, and save them with the recommender.

    With split all the T5 has seen every item: then the trees of ``init_from`` stay, over counts of all events.

    Returns:
        The ranker; None if no validation item is among its candidates, or the T5's own order is better: the
        recommender then has no second stage, and its record says why, under ``second_stage``.

    Raises:
        DataError: the recommender, the dataset and the vectors don't belong together.
    """
    tiger = TigerRecommender.from_pretrained(args.recommender, devices.fastest(), rank=False)
    data = RecommendationData.load(args.dataset)
    if len(tiger.tokenizer) != data.num_items or set(tiger.tokenizer.item_ids) != set(data.item_ids):
        raise DataError(f"{args.recommender} has other items than {args.dataset} holds.")
    if args.split != tiger.training.get("split", LEAVE_ONE_OUT):
        raise DataError(f"{args.recommender} was not trained with split {args.split}: give both the same.")
    if args.split == ALL:
        return _with_kept_trees(args, tiger, data)
    rows = tiger.tokenizer.rows(data.item_ids)
    split, _ = split_of_model(data, rows, tiger.training, args.dataset, tables=(TRAIN, ITEMS))
    start = time.perf_counter()
    split = without_validation_counts(tiger, split)
    ordered = _ordered(tiger, data)
    vectors = _content_vectors(args, tiger, ordered)
    try:
        ranker = _fit(args, tiger, _candidates(args, tiger, ordered, vectors, split.train), split)
    except NothingToLearn as error:
        _without_trees(args, tiger, {"order": BY_T5, "reason": str(error)}, split)
        return None
    record = ranker.record
    record["seconds"] = round(time.perf_counter() - start)
    trees = " + ".join(map(str, record["trees"]))  # of several seeds
    held_out = f"ndcg@10 {record['held out ndcg@10']:.4f}"
    print(f"{trees} trees, chosen on {record['users held out']:,} users held out: {held_out}")
    known = {name: value for name, value in record.items() if name.startswith(("held out ndcg@10", "users"))}
    decision = {"order": record.get("order", BY_TREES), "trees": record["trees"]} | known
    print(order_in_words(decision))
    if decision["order"] == BY_T5:
        _without_trees(args, tiger, decision, split)
        return None
    tiger.training = tiger.training | {"second_stage": decision}
    if args.count_validation:
        with_validation_counts(tiger, split)
        ranker.candidates = _candidates(args, tiger, ordered, vectors, split.test_histories)
    return _saved(args, tiger, ranker)


def _fit(
    args: TwoStageArguments, tiger: TigerRecommender, candidates: Candidates, split: LeaveOneOut
) -> TwoStageRanker:
    """Fit the trees, and record how; see :meth:`tiger.rankers.two_stage.ranker.TwoStageRanker.fit`."""
    learn = EvaluationExamples(*split.part("valid")).sample(args.users, args.seed)
    exclude = excludes_history(split, args.exclude_history, tiger.training)
    search: dict[str, Any] = {"num_beams": args.num_beams, "exclude_history": exclude, "progress": True, "rank": False}
    beams, scores = tiger.recommend_rows(learn.histories, k=args.num_beams, bf16=True, **search)
    ranker = TwoStageRanker.fit(
        candidates,
        candidates.propose(learn.histories, beams, scores, exclude, progress=True),
        learn.targets,
        tiger.tokenizer.fingerprint,
        with_memory=tiger.memory is not None,
        **{name: getattr(args, name) for name in _OPTIONS},
    )
    places = ("recommender", "dataset", "embeddings")
    ranker.record["arguments"] = {name: value for name, value in asdict(args).items() if name not in places}
    ranker.record["exclude_history"] = exclude
    return ranker


def order_in_words(decision: Mapping[str, Any]) -> str:
    """Say which order a second stage keeps, and why, in a sentence."""
    if "reason" in decision:
        return f"No second stage: {decision['reason']}"
    found = {name: decision.get(f"held out ndcg@10, {name}") for name in (BY_TREES, BY_HYBRID, BY_T5)}
    if found[BY_HYBRID] is None:
        return "The trees order the candidates: a setting (two_stage.keep), or the model gone on from, says so."
    numbers = {name: f"{ndcg:.4f}" for name, ndcg in found.items() if ndcg is not None}
    t5 = f" and the T5's {numbers[BY_T5]}" if BY_T5 in numbers else ""
    where = f"On {decision['users held out']:,} users held out, N@10 of the trees is {numbers[BY_TREES]}"
    where += f", the hybrid's {numbers[BY_HYBRID]}{t5}"
    done = {
        BY_TREES: "the trees are better than the hybrid by two standard errors and order the candidates",
        BY_HYBRID: "the trees are not better by two standard errors, so the hybrid's score orders the candidates",
        BY_T5: "the trees are not the best, so there is no second stage",
    }
    return f"{where}: {done[decision['order']]}."


def _without_trees(
    args: TwoStageArguments, tiger: TigerRecommender, decision: dict[str, Any], split: LeaveOneOut | None = None
) -> None:
    """Save the recommender without a second stage, and why it has none.

    Args:
        split: whose validation events its memory counts from now on, where the settings say so; None: there are none.
    """
    tiger.ranker = None
    tiger.training = tiger.training | {"second_stage": decision}
    if args.count_validation and split is not None and tiger.memory is not None:  # else nothing counts
        with_validation_counts(tiger, split)
    tiger.save_pretrained(args.recommender)
    print(f"{args.recommender} has no second stage")


def _ordered(tiger: TigerRecommender, data: RecommendationData) -> RecommendationData:
    """The data in the recommender's rows; a recommender without an item table, which a second stage reads, gets it."""
    ordered = data.in_order(tiger.tokenizer.item_ids)
    if tiger.items is None:
        tiger.items = ordered.items
    return ordered


def _candidates(
    args: TwoStageArguments,
    tiger: TigerRecommender,
    ordered: RecommendationData,
    vectors: np.ndarray | None,
    events: Sequences,
) -> Candidates:
    """Counts of these events, in the recommender's rows, and what else the second stage reads of the items."""
    codes = tiger.tokenizer.codes
    return Candidates.fit(events, ordered.items, codes=codes, vectors=vectors, num_proposed=args.num_proposed)


def trees_of(args: TwoStageArguments) -> tuple[Parent, TwoStageRanker | None]:
    """The parent whose trees are kept where nothing is held out, and its second stage.

    That is None where the T5's order was better on users held out.

    Raises:
        DataError: there is no parent, it has no second stage, or its trees were fitted with other settings.
    """
    init_from = args.init_from
    remedy = "the T5 has seen all targets, so that no trees can learn how far to trust it. "
    remedy += (
        "Train without --split all first and give that model as --init_from (its trees are kept), or give a recipe "
    )
    remedy += "without two_stage.yaml"
    if init_from is None:
        raise DataError(f"--split all has no second stage of its own: {remedy}.")
    parent = load_parent(init_from, rank=True)
    ranker = parent.tiger.ranker
    if ranker is None and parent.tiger.training.get("second_stage", {}).get("order") == BY_T5:
        return parent, None
    if not isinstance(ranker, TwoStageRanker):
        raise DataError(f"{init_from} has no second stage whose trees could be kept with --split all: {remedy}.")
    recorded = ranker.record.get("arguments")
    recorded = recorded if isinstance(recorded, dict) else {}
    known = [name for name in _FITTED_BY if name in recorded]
    refuse_other(parent, {f"two_stage.{name}": (getattr(args, name), recorded[name]) for name in known})
    return parent, ranker


def _with_kept_trees(
    args: TwoStageArguments, tiger: TigerRecommender, data: RecommendationData
) -> TwoStageRanker | None:
    """Count all events anew under the trees of the parent, which learned from a T5 that had not seen their targets."""
    parent, before = trees_of(args)
    tiger.training = tiger.training | {"second_stage": parent.tiger.training.get("second_stage", {"order": BY_TREES})}
    if before is None:
        _without_trees(args, tiger, tiger.training["second_stage"])
        return None
    if before.learned_with_memory not in (None, tiger.memory is not None):
        how, wanted = ("without", "false") if tiger.memory is not None else ("with", "true")
        raise DataError(
            f"the trees of {args.init_from} learned from searches {how} a memory: train the T5 with memory: {wanted}."
        )
    start, split = time.perf_counter(), data.split(ALL, tiger.training.get("shuffle_ties"))
    found = {TRAIN: train_digest(data, split), ITEMS: table_digest(data.items)}
    check_same_data(known_digests(tiger.training), found, args.dataset, args.recommender, "give the same dataset")
    ordered = _ordered(tiger, data)
    events = ordered.split(ALL, tiger.training.get("shuffle_ties")).train
    candidates = _candidates(args, tiger, ordered, _content_vectors(args, tiger, ordered), events)
    record = before.record | {"trees of": parent.fingerprint, "seconds": round(time.perf_counter() - start)}
    names = before.trees, before.columns, tiger.tokenizer.fingerprint, record, before.assume_last_day
    print(f"the trees of {args.init_from} stay, over counts of all events")
    return _saved(args, tiger, TwoStageRanker(candidates, *names, before.learned_with_memory))


def _saved(args: TwoStageArguments, tiger: TigerRecommender, ranker: TwoStageRanker) -> TwoStageRanker:
    tiger.ranker = ranker
    tiger.save_pretrained(args.recommender)
    print(f"{args.recommender} now ranks with it")
    return ranker


def _content_vectors(args: TwoStageArguments, tiger: TigerRecommender, data: RecommendationData) -> np.ndarray | None:
    """Vectors of the items' texts, float32 [items, dimensions]; None where there is nothing that embeds them."""
    if not args.embeddings:
        texts = item_texts(data.items, tiger.training.get("template"), required=False)
        return None if tiger.encoder is None else tiger.encoder.encode(texts)
    vectors = vectors_of(args.embeddings, data)
    quantizer = tiger.tokenizer.quantizer
    if quantizer is not None and vectors.shape[1] != quantizer.input_dim:
        raise DataError(
            f"{args.embeddings} has {vectors.shape[1]} dimensions, the recommender's encoder "
            f"{quantizer.input_dim}: give its vectors, or new items could not be compared with these."
        )
    return vectors
