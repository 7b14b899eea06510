"""Give a saved recommender a memory: what followed each item in its training log, mixed with the T5's probabilities.

    python recipes/memory.py --recommender runs/beauty/model --dataset datasets/beauty

A retriever that is trained with ``memory: true`` has one already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.training_split import split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments
from tiger.training.memory import add_memory
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
    vectors = None
    if args.embeddings:
        vectors = load_embeddings(args.embeddings, data.num_items)
    elif recommender.encoder is not None:
        vectors = recommender.encoder.encode(item_texts(data.items, recommender.training.get("template")))
    split, _ = split_of_model(data, np.arange(data.num_items), recommender.training, args.dataset)
    add_memory(recommender, data, split, vectors)
    recommender.save_pretrained(args.recommender)
    print(f"{args.recommender} has a memory of {recommender.memory.size:,} pairs of items")


if __name__ == "__main__":
    with friendly_errors():
        main()
