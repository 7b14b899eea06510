"""Train a T5 to write the semantic ID of the next item.

    python recipes/retriever.py recipes/demo/retriever.yaml [--key value ...]
    accelerate launch --multi_gpu --num_processes 2 recipes/retriever.py recipes/demo/retriever.yaml

Checkpoints and TensorBoard logs go to ``output_dir``; the finished recommender to ``model_dir``. A run that was
killed goes on from its last checkpoint when it is started again with the same settings. With ``--push_to_hub
--hub_model_id me/name`` the finished recommender goes to the Hub as well, with its card and without the items' texts
(``tiger push`` has more to choose from); a finished run can be pushed by starting it once more so.
"""

from __future__ import annotations

from transformers import TrainingArguments

from tiger.cli.common import friendly_errors
from tiger.training.arguments import parse_arguments
from tiger.training.processes import leave_group
from tiger.training.retriever import RetrieverArguments, train_retriever


def main() -> None:
    train_retriever(*parse_arguments([RetrieverArguments, TrainingArguments]))
    leave_group()


if __name__ == "__main__":
    with friendly_errors():
        main()
