"""Learn the order of the T5's beams and of what the log and the texts propose, into a saved recommender.

    python recipes/two_stage.py recipes/beauty/two_stage.yaml [--key value ...]

The trees learn from the validation items, which the T5 must not have seen; they are chosen on users kept apart.
``recipes/evaluate.py`` then reports the T5 alone (``tiger``) and both stages (``two-stage``).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import torch

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.ranker import NothingToLearn, TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError


@dataclass
class TwoStageArguments:
    recommender: str = field(metadata={"help": "a saved recommender, which gets the ranker"})
    dataset: str = field(metadata={"help": "the dataset directory that it was trained on"})
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors file of content vectors; default: the recommender's encoder"}
    )
    num_beams: int = field(default=50, metadata={"help": "beams of the T5 that are ranked too"})
    num_proposed: int = field(default=150, metadata={"help": "candidates from the log and the texts"})
    users: int = field(
        default=50_000, metadata={"help": "to learn from, 40 kB each, drawn at random if there are more"}
    )
    max_trees: int = 600
    learning_rate: float = 0.04
    num_leaves: int = 31
    seed: int = 0
    num_seeds: int = field(default=1, metadata={"help": "models averaged over seeds"})


def main() -> None:
    (args,) = parse_arguments([TwoStageArguments], sys.argv[1:])
    device = torch.accelerator.current_accelerator() or "cpu"
    tiger = TigerRecommender.from_pretrained(args.recommender, device, rank=False)
    data = RecommendationData.load(args.dataset)
    if tiger.tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.recommender} knows other items than {args.dataset} holds.")
    split = data.leave_one_out(tiger.training.get("shuffle_ties"))
    start = time.perf_counter()
    if tiger.items is None:  # which the second stage reads
        tiger.items = data.items
    if args.embeddings:
        vectors = load_embeddings(args.embeddings, data.num_items)
        quantizer = tiger.tokenizer.quantizer
        if quantizer is not None and vectors.shape[1] != quantizer.input_dim:
            raise DataError(
                f"{args.embeddings} has {vectors.shape[1]} dimensions, the recommender's encoder "
                f"{quantizer.input_dim}: give its vectors, or items to come could not be compared with these."
            )
    else:
        texts = item_texts(data.items, tiger.training.get("template"), required=False)
        vectors = None if tiger.encoder is None else tiger.encoder.encode(texts)
    candidates = Candidates.fit(
        split.train, data.items, codes=tiger.tokenizer.codes, vectors=vectors, num_proposed=args.num_proposed
    )
    learn = EvaluationExamples(*split.part("valid")).sample(args.users, args.seed)
    histories, targets = learn.histories, learn.targets
    with torch.autocast(tiger.device.type, torch.bfloat16):
        beams, scores = tiger.recommend_rows(
            histories, k=args.num_beams, num_beams=args.num_beams, progress=True, rank=False
        )
    try:
        ranker = TwoStageRanker.fit(
            candidates,
            candidates.propose(histories, beams, scores, progress=True),
            targets,
            tiger.tokenizer.fingerprint,
            max_trees=args.max_trees,
            learning_rate=args.learning_rate,
            num_leaves=args.num_leaves,
            seed=args.seed,
            num_seeds=args.num_seeds,
        )
    except NothingToLearn as error:
        print(f"no second stage, {args.recommender} stays as it is: {error}")
        return
    ranker.record["seconds"] = round(time.perf_counter() - start)
    print("; ".join(f"{name} {value}" for name, value in ranker.record.items()))
    tiger.ranker = ranker
    tiger.save_pretrained(args.recommender)
    print(f"{args.recommender} now ranks with it")


if __name__ == "__main__":
    with friendly_errors():
        main()
