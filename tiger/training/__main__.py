"""``python -m tiger.training retriever [recipe.yaml] [--key value ...]``: one of several processes that train a T5.

:func:`tiger.train` starts them by ``accelerate launch``.
"""

from __future__ import annotations

import sys

from transformers import TrainingArguments

from tiger.training.arguments import parse_arguments
from tiger.training.processes import leave_group
from tiger.training.retriever import RetrieverArguments, train_retriever
from tiger.utils.errors import DataError


def main(argv: list[str]) -> None:
    if argv[:1] != ["retriever"]:
        sys.exit(f"error: only the step retriever runs in several processes, got {argv[:1]}")
    try:
        train_retriever(*parse_arguments([RetrieverArguments, TrainingArguments], argv[1:]))
        leave_group()
    except (DataError, FileExistsError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
