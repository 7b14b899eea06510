"""Train the click ranker of a saved recommender, over its semantic IDs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from transformers import TrainingArguments, set_seed

from tiger.data.cooccurrence import floored_totals
from tiger.data.dataset import RecommendationData
from tiger.data.identity import ITEMS, TRAIN, check_same_data
from tiger.data.repeats import excludes_history
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.training_split import counts_validation, known_digests
from tiger.quantizers.report import REPORT
from tiger.rankers.click.beam_inputs import num_inputs
from tiger.rankers.click.beam_training import BeamLists, fit_beam_head
from tiger.rankers.click.dataset import (
    Impressions,
    draw_negatives,
    rows_and_dense,
    sampled_impressions,
)
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.initialization import CENTROIDS, RANDOM, start_at_centroids
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.ranker import TOTALS, ClickRanker
from tiger.rankers.click.trainer import RankerTrainer
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.retriever.memory import ROUTES
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.run_settings import check_folders
from tiger.training.tokenizer import load_data_and_tokenizer, saved_vectors
from tiger.training.validation_counts import with_validation_counts, without_validation_counts
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.files import refuse_other_files, replaced_folder

# What goes when a ranker is trained anew: all else in its directory is the owner's.
OWN_FILES = (*("config.json", "model.safetensors", "item_features.json", "dense.safetensors"), TOTALS, REPORT)
SAMPLED, BEAMS = "sampled", "beams"


@dataclass
class RankerArguments:
    """Settings of :func:`train_click_ranker` beside ``TrainingArguments``; the keys of a recipe's ``ranker.yaml``."""

    dataset: str = field(metadata={"help": "dataset directory, or owner/name on the Hub"})
    tokenizer: str = field(metadata={"help": "directory of a fitted tokenizer"})
    ranker_dir: str = field(metadata={"help": "output directory for the ranker"})
    recommender: str | None = field(
        default=None, metadata={"help": "a saved recommender to save the ranker into as well"}
    )
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors with content vectors, in place of running the encoder"}
    )
    features: str = field(default="spm+dense", metadata={"help": "item features, see tiger/rankers/click/features.py"})
    budget: int = field(default=20_000, metadata={"help": "rows of the embedding table"})
    n: int = field(default=2, metadata={"help": "codes of an n-gram"})
    num_hashes: int = field(default=2, metadata={"help": "rows of an item under random_hash"})
    d_model: int = field(default=64, metadata={"help": "dimensions of an item"})
    hidden_sizes: list[int] = field(default_factory=lambda: [128, 64], metadata={"help": "of the head"})
    head: str = field(default="mlp", metadata={"help": "mlp or dcn"})
    loss: str = field(default="binary", metadata={"help": "binary or listwise"})
    dropout: float = field(default=0.1, metadata={"help": "of the head"})
    gate: bool = field(
        default=False, metadata={"help": "weigh an item's own table rows by how often training showed it"}
    )
    row_dropout: float = field(default=0.0, metadata={"help": "share of an item's table rows that training drops"})
    max_history: int = field(default=20, metadata={"help": "maximum number of history items that the model reads"})
    uniform_negatives: int = field(default=2, metadata={"help": "negatives per event, sampled uniformly"})
    popular_negatives: int = field(default=2, metadata={"help": "negatives per event, sampled by popularity"})
    sparse: bool = field(default=True, metadata={"help": "sparse gradients of the embedding table"})
    table_learning_rate: float = field(default=0.05, metadata={"help": "learning rate of a sparse table"})
    weigh_users: int = field(default=3000, metadata={"help": "number of users on which the T5's weight is tuned"})
    num_beams: int = field(default=50, metadata={"help": "beams of the T5 while tuning its weight"})
    shuffle_ties: int | None = field(default=None, metadata={"help": "as for the recommender"})
    start_rows: str = field(
        default=RANDOM, metadata={"help": "rows of codes start at random, or at centroids of their items' vectors"}
    )
    negatives: str = field(
        default=SAMPLED,
        metadata={"help": "sampled; or beams: the recommender's beams for validation users teach it their order, too"},
    )
    beam_users: int = field(default=50_000, metadata={"help": "maximum number of users whose beams it learns from"})
    beam_epochs: int = field(default=15, metadata={"help": "maximum epochs over beams; chosen on held-out users"})
    beam_learning_rate: float = field(default=1e-3, metadata={"help": "learning rate over beams"})
    beam_hidden: int = field(default=64, metadata={"help": "sizes of the head that reads beams"})

    def __post_init__(self) -> None:
        if self.negatives not in (SAMPLED, BEAMS):
            raise DataError(f"negatives must be {SAMPLED} or {BEAMS}, got {self.negatives!r}.")
        if self.start_rows not in (RANDOM, CENTROIDS):
            raise DataError(f"start_rows must be {RANDOM} or {CENTROIDS}, got {self.start_rows!r}.")
        if self.negatives == BEAMS and not self.recommender:
            raise DataError("negatives beams are those of a recommender: give --recommender.")


def train_click_ranker(args: RankerArguments, training: TrainingArguments) -> ClickRanker:
    """Train on each event of the log and on items that the user might have been shown instead.

    The ranker goes to ``args.ranker_dir``. Where a saved recommender is named, it goes into that too and orders its
    beams from then on; how much the T5's own log-probability counts beside the ranker's logit is chosen on validation
    items. With negatives ``beams``, a head over the beams is trained on validation items in its place. A memory that
    counts validation events does so again once all is fitted, and not before.

    Raises:
        DataError: the dataset, the tokenizer and the recommender don't belong together.
        FileExistsError: ``args.ranker_dir`` holds something else than a ranker.
    """
    assert training.output_dir is not None  # TrainingArguments fills it in
    check_folders(training.output_dir, args.ranker_dir, args.tokenizer, "ranker_dir")
    refuse_other_files(args.ranker_dir, REPORT)
    data, tokenizer, found = load_data_and_tokenizer(args.dataset, args.tokenizer, args.shuffle_ties)
    recommender = TigerRecommender.from_pretrained(args.recommender, rank=False) if args.recommender else None
    if recommender is not None:
        _check_recommender(args, recommender, tokenizer)
        learned = {name: found[name] for name in (ITEMS, TRAIN)}
        remedy = "give the dataset that it was trained on"
        check_same_data(known_digests(recommender.training), learned, args.dataset, args.recommender, remedy)
    if args.num_beams < 10:
        raise DataError(f"num_beams must be at least 10, got {args.num_beams}: beams are weighed by NDCG@10.")
    split = data.leave_one_out(args.shuffle_ties)
    counted = recommender is not None and counts_validation(recommender.training)
    if recommender is not None:
        split = without_validation_counts(recommender, split)
    ranker, metrics = _trained(args, training, data, tokenizer, split, recommender)
    report: dict[str, Any] = {"validation": metrics}
    if recommender is not None:
        users = weighing_users(
            split, recommender.training, args.beam_users if args.negatives == BEAMS else args.weigh_users
        )
        exclude = excludes_history(split, None, recommender.training)
        search: dict[str, Any] = {"num_beams": args.num_beams, "exclude_history": exclude, "progress": True}
        beams = recommender.recommend_rows(users.histories, k=args.num_beams, rank=False, **search)
        if args.negatives == BEAMS:
            report["beams"] = _learn_order(args, ranker, recommender, users, beams, training.seed)
        else:
            weighed = ranker.tune_t5_weight(users.histories, *beams, users.targets, recommender.memory is not None)
            report["ndcg@10 by the weight of the T5"] = weighed
            print("validation NDCG@10 by the weight of the T5:", {one: round(n, 4) for one, n in weighed.items()})
    report |= {"arguments": asdict(args), "counts_validation": counted}
    with replaced_folder(args.ranker_dir, REPORT, ours=lambda old: OWN_FILES) as folder:
        ranker.save_pretrained(folder)
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    print(f"validation AUC {metrics['eval_auc']:.4f}; saved to {args.ranker_dir}")
    if recommender is not None and args.recommender:
        recommender.ranker = ClickRanker.from_pretrained(args.ranker_dir, recommender.tokenizer)
        if counted:  # as before: the ranker has learned from counts that end before them, as a second stage's trees do
            with_validation_counts(recommender, split)
        recommender.save_pretrained(args.recommender)
        print(f"{args.recommender} now ranks with it")
    return ranker


def _learn_order(
    args: RankerArguments,
    ranker: ClickRanker,
    recommender: TigerRecommender,
    users: EvaluationExamples,
    beams: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> dict[str, Any]:
    """Train the beam head on what the search found for these users; a record of it."""
    memory = None if recommender.memory is None else recommender.memory.parts(users.histories, *beams)
    lists = BeamLists(*beams, ranker.inputs(users.histories, *beams, memory), users.targets)
    found = fit_beam_head(ranker, lists, args.beam_epochs, args.beam_learning_rate, seed)
    start, best = found["held out ndcg@10"][0], found["held out ndcg@10"][found["epochs"]]
    print(f"{found['epochs']} epochs over beams; held-out NDCG@10 {start:.4f} before, {best:.4f} after")
    return found


def weighing_users(split: LeaveOneOut, training: dict, count: int) -> EvaluationExamples:
    """Draw validation users to tune the T5's weight on: others than those by whom the T5 was chosen among its
    checkpoints, on whom it looks better than it is. Any users where it was chosen by all of them.

    Args:
        training: what the recommender's record says of its training.
        count: maximum number of users.
    """
    everyone = EvaluationExamples(*split.part("valid"))
    arguments = training.get("arguments")
    chose = arguments.get("eval_users") if isinstance(arguments, dict) else None
    others = np.setdiff1d(np.arange(len(everyone)), everyone.drawn(chose if isinstance(chose, int) else None))
    if not len(others):
        print("all validation users have chosen the T5: its weight is tuned on some of the same")
        return everyone.sample(count, seed=1)
    return everyone.select(others).sample(count, seed=1)


def _check_recommender(args: RankerArguments, recommender: TigerRecommender, tokenizer: SemanticIdTokenizer) -> None:
    if recommender.tokenizer.fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"{args.recommender} has other semantic IDs than {args.tokenizer}: give the one it was made with."
        )
    if recommender.tokenizer.item_ids != tokenizer.item_ids:
        raise DataError(f"{args.recommender} has had items added or removed since: train the ranker into a fresh one.")
    if recommender.training.get("shuffle_ties") != args.shuffle_ties:
        raise DataError(
            f"{args.recommender} was trained with shuffle_ties {recommender.training.get('shuffle_ties')}, which "
            f"includes events validated with {args.shuffle_ties}: give the same."
        )


def _trained(
    args: RankerArguments,
    training: TrainingArguments,
    data: RecommendationData,
    tokenizer: SemanticIdTokenizer,
    split: LeaveOneOut,
    recommender: TigerRecommender | None = None,
) -> tuple[ClickRanker, dict[str, float]]:
    """The ranker after its last step, and its validation metrics."""
    popularity = np.bincount(split.train.items, minlength=data.num_items)
    features = ItemFeatures.fit(
        args.features,
        args.budget,
        tokenizer.codes,
        tokenizer.codebook_size,
        impressions=popularity,
        n=args.n,
        num_hashes=args.num_hashes,
    )
    reads = features.uses_dense or args.start_rows == CENTROIDS
    embeddings = saved_vectors(args.tokenizer, args.embeddings, data) if reads else None
    rows, dense = rows_and_dense(features, data.item_ids, tokenizer.codes, embeddings, tokenizer.quantizer)
    set_seed(training.seed)
    sizes = ("d_model", "head", "loss", "dropout", "row_dropout", "max_history", "hidden_sizes", "sparse")
    model = SemanticIdRanker(
        ranker_config(
            features,
            dense_dim=0 if dense is None else dense.shape[1],
            semantic_ids=tokenizer.fingerprint,
            gate=args.gate,
            **_beam_sizes(args, recommender),
            **{size: getattr(args, size) for size in sizes},
        )
    )
    if args.start_rows == CENTROIDS and embeddings is not None:
        start_at_centroids(model, features, rows, embeddings, training.seed)
    totals = floored_totals(split.train, data.num_items) if model.reads_counts else None
    trainer = RankerTrainer(
        model,
        training,
        lists(args, split.train, np.arange(len(split.train.items)), data.num_items, seed=0),
        # The event before the last of each user, after all that training has seen.
        lists(args, split.test_histories, split.test_histories.offsets[1:] - 1, data.num_items, seed=1),
        item_rows=rows,
        dense=dense,
        table_learning_rate=args.table_learning_rate,
        counts=totals,
    )
    assert training.output_dir is not None  # TrainingArguments fills it in
    with disk_errors(training.output_dir):
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    metrics = {name: round(value, 5) for name, value in trainer.evaluate().items()}
    model.to("cpu")  # type: ignore[arg-type]  # transformers hides that it is a method
    return ClickRanker(model, features, tokenizer, dense, totals), metrics


def _beam_sizes(args: RankerArguments, recommender: TigerRecommender | None) -> dict[str, Any]:
    """Fields of the ranker's config that say what its beam head reads; none without one."""
    if args.negatives != BEAMS or recommender is None:
        return {}
    parts = 0 if recommender.memory is None else len(ROUTES) + 2
    return {"beam_inputs": num_inputs(parts), "beam_hidden": args.beam_hidden, "reads_memory": parts > 0}


def lists(args: RankerArguments, sequences: Sequences, events: np.ndarray, num_items: int, seed: int) -> Impressions:
    """Make lists for training: each event with sampled negatives."""
    negatives = draw_negatives(
        sequences,
        events,
        num_items,
        uniform=args.uniform_negatives,
        popular=args.popular_negatives,
        seed=seed,
    )
    return sampled_impressions(sequences, events, negatives)
