"""Train a ranker over the semantic IDs of a recommender, and put it into that recommender.

    python recipes/ranker.py recipes/demo/ranker.yaml [--key value ...]

It learns from the training part of the next-item split: each event and four items that the user might have been shown
instead. Where a saved recommender is named, the ranker goes into it and orders its beams from then on; how much the
T5's own log-probability counts beside the ranker's logit is chosen on validation items. With ``negatives: beams``
a head over the recommender's beams is trained on validation items instead; it starts from the recommender's own order.
"""

from __future__ import annotations

from transformers import TrainingArguments

from tiger.cli.common import friendly_errors
from tiger.training.arguments import parse_arguments
from tiger.training.click_ranker import RankerArguments, train_click_ranker
from tiger.training.processes import leave_group


def main() -> None:
    train_click_ranker(*parse_arguments([RankerArguments, TrainingArguments]))
    leave_group()


if __name__ == "__main__":
    with friendly_errors():
        main()
