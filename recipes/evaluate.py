"""Measure a saved recommender on test items, beside the baselines.

    python recipes/evaluate.py recipes/demo/evaluate.yaml [--key value ...]

Prints a table and writes the results as JSON. A model is measured on the split that it was trained on (ties as
published or shuffled): on another one, its training data would hold test items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.evaluator import rank_bytes
from tiger.evaluation.results import (
    Measured,
    baseline_results,
    mean_over_seeds,
    model_results,
    results_table,
    write_results,
)
from tiger.evaluation.training_split import OTHER_LOG, SUFFIX, split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.arguments import parse_arguments
from tiger.training.evaluation import EvaluationArguments, name_alone, stages_of
from tiger.training.stories import SHOWN, spread, stories_of, told
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically


@dataclass
class EvaluateArguments:
    dataset: str = field(metadata={"help": "dataset directory, or owner/name on the Hub"})
    results_dir: str = field(metadata={"help": "where the JSON files go, one per model"})
    models: list[str] = field(default_factory=list, metadata={"help": "saved recommenders; none: baselines alone"})
    name: str = field(default="tiger", metadata={"help": "what to call the model in the table"})
    part: str = field(default="test", metadata={"help": "test; or valid, of which a second stage has learned"})
    num_beams: int = 50
    tie_seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "for the baselines, ties shuffled"})
    note: str | None = field(default=None, metadata={"help": "what a reader of the model's results should know"})
    examples: int = field(default=0, metadata={"help": "print so many users' histories and recommendations"})
    bf16: bool = field(default=True, metadata={"help": "decode in bfloat16"})
    no_timestamps: bool = field(
        default=False, metadata={"help": "measure the second stage without the times of events as well"}
    )
    no_memory: bool = field(default=False, metadata={"help": "measure the T5 without its memory as well"})
    baselines: bool = field(default=True, metadata={"help": "measure the training-free methods as well"})
    allow_other_log: bool = field(
        default=False, metadata={"help": "measure on another log than a model was trained on, and say so in its rows"}
    )
    command: str | None = field(
        default=None, metadata={"help": "the command that makes the rows, to be recorded; default: this one"}
    )
    only: list[str] = field(default_factory=list, metadata={"help": "training-free methods to measure; default: all"})
    embeddings: str | None = field(
        default=None, metadata={"help": "content vectors, for the training-free methods that read them: tgh-1, tgh-2"}
    )
    ranks_dir: str | None = field(
        default=None, metadata={"help": "where the place of every user's target goes, a safetensors file per model"}
    )


def main() -> None:
    (args,) = parse_arguments([EvaluateArguments])
    device = torch.accelerator.current_accelerator() or "cpu"
    recommenders = [TigerRecommender.from_pretrained(folder, device) for folder in args.models]
    data = RecommendationData.load(args.dataset)
    texts = item_texts(data.items, required=False) if args.baselines else None
    vectors = load_embeddings(args.embeddings, data.num_items) if args.embeddings else None
    results = []
    for seed in (None, *args.tie_seeds) if texts is not None else ():
        seeds = () if seed is None else (seed,)
        measured = Measured(Path(args.dataset).name, args.part, seed, seeds, command=args.command)
        results += baseline_results(measured, data.leave_one_out(seed), texts, vectors, args.only)
    for recommender in recommenders:
        results += measure(args, data, recommender, texts)
        if args.examples:
            show(args, data, recommender)
    results = mean_over_seeds(results)
    print(results_table(results))
    write_results(results, args.results_dir)
    print(f"results: {args.results_dir}")


def measure(
    args: EvaluateArguments, data: RecommendationData, recommender: TigerRecommender, texts: list[str] | None
) -> list[dict]:
    """Results of the T5 alone and, where there is a ranker, of both stages."""
    if recommender.tokenizer.item_ids != data.item_ids:
        raise DataError(f"the model knows other items than {args.dataset} holds: evaluate it on its own dataset.")
    rows_of_items = np.arange(data.num_items)
    split, same = split_of_model(data, rows_of_items, recommender.training, args.dataset, args.allow_other_log)
    training, ranker = recommender.training, recommender.ranker
    if ranker is not None and ranker.learned_from == args.part:
        print("The second stage learned from validation items: only the T5 is measured on them.")
    search = EvaluationArguments(
        num_beams=args.num_beams, bf16=args.bf16, no_timestamps=args.no_timestamps, no_memory=args.no_memory
    )

    def stages(histories: Sequences, exclude_history: bool) -> Iterator[tuple[str, np.ndarray]]:
        for name, answers, _ in stages_of(recommender, histories, search, exclude_history, args.part, args.name):
            yield name, answers

    facts = {"training": training, "num_beams": args.num_beams} | ({"note": args.note} if args.note else {})
    if same is False:
        print(f"measured on {OTHER_LOG}")
        facts["other_log"] = True
    measured = Measured(
        Path(args.dataset).name,
        args.part,
        training.get("shuffle_ties"),
        (training.get("seed"),),
        None if recommender.encoder is None else recommender.encoder.name,
        tuple(facts.items()),
        args.command,
    )
    rows, alone = model_results(measured, stages, split, texts, name_alone(recommender, args.name))
    for row in rows:
        if row["model"].removesuffix(SUFFIX) not in (args.name, "memory", f"{args.name}-no-memory"):
            row["second_stage"] = getattr(ranker, "record", {})  # how many fits, and with which settings
    if args.ranks_dir is not None:
        Path(args.ranks_dir).mkdir(parents=True, exist_ok=True)
        ranks = {setting: rank_bytes(evaluation, max(10, args.num_beams)) for setting, evaluation in alone.items()}
        file = Path(args.ranks_dir) / f"{args.name}-seed{training.get('seed')}.safetensors"
        write_atomically(file, save(ranks))
    return rows


def show(args: EvaluateArguments, data: RecommendationData, recommender: TigerRecommender) -> None:
    """A few users, by title: what they had, what came, what is recommended."""
    split = data.leave_one_out(recommender.training.get("shuffle_ties"))
    users = np.array(spread(len(split.users), args.examples))
    examples = EvaluationExamples(*split.part(args.part)).select(users)
    answers = recommender.recommend_rows(examples.histories, k=SHOWN, num_beams=args.num_beams)
    names = data.user_ids.take(split.users[users]).to_pylist()
    for story in stories_of(recommender, names, examples, *answers, range(len(users))):
        print(f"\n{told(story)}")


if __name__ == "__main__":
    with friendly_errors():
        main()
