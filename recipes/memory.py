"""Give a saved recommender a memory: what followed each item in its training log, mixed with the T5's probabilities.

    python recipes/memory.py --recommender runs/beauty/model --dataset datasets/beauty

A retriever that is trained with ``memory: true`` has one already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.evaluation.training_split import split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments
from tiger.training.memory import add_memory
from tiger.training.validation_counts import without_validation_counts
from tiger.utils import devices
from tiger.utils.errors import DataError


@dataclass
class MemoryArguments:
    recommender: str = field(metadata={"help": "a saved recommender, which is written anew, with its memory"})
    dataset: str = field(metadata={"help": "the dataset directory that it was trained on"})
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors file of the texts' vectors; default: the recommender's encoder"}
    )


def main() -> None:
    (args,) = parse_arguments([MemoryArguments])
    recommender = TigerRecommender.from_pretrained(args.recommender, devices.fastest())
    data = RecommendationData.load(args.dataset)
    if recommender.tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.recommender} knows other items than {args.dataset} holds.")
    if recommender.ranker is not None:
        raise DataError(f"{args.recommender} has a ranker that learned from its T5 alone: train it again afterwards.")
    split, _ = split_of_model(data, np.arange(data.num_items), recommender.training, args.dataset)
    split = without_validation_counts(recommender, split)
    add_memory(recommender, data, split, args.embeddings)
    recommender.save_pretrained(args.recommender)
    print(f"{args.recommender} has a memory of {recommender.memory.size:,} pairs of items")


if __name__ == "__main__":
    with friendly_errors():
        main()
