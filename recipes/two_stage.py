"""Learn the order of the T5's beams and of what the log and the texts propose, into a saved recommender.

    python recipes/two_stage.py recipes/beauty/two_stage.yaml [--key value ...]

The trees learn from the validation items, which the T5 must not have seen; they are chosen on users kept apart.
``recipes/evaluate.py`` then reports the T5 alone (``tiger``) and both stages (``two-stage``).
"""

from __future__ import annotations

from tiger.cli.common import friendly_errors
from tiger.training.arguments import parse_arguments
from tiger.training.two_stage import TwoStageArguments, train_two_stage


def main() -> None:
    train_two_stage(*parse_arguments([TwoStageArguments]))


if __name__ == "__main__":
    with friendly_errors():
        main()
