"""The command ``tiger``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tiger import __version__
from tiger.cli.common import friendly_errors
from tiger.cli.completion import add_completion_verb
from tiger.cli.evaluate import add_evaluate_verb
from tiger.cli.importing import add_import_verb
from tiger.cli.index import add_index_verb
from tiger.cli.info import add_info_verb
from tiger.cli.items import add_items_verbs
from tiger.cli.parser import Parser
from tiger.cli.push import add_push_verb
from tiger.cli.recommend import add_recommend_verbs
from tiger.cli.serving import add_serving_verbs
from tiger.cli.train import add_train_verb
from tiger.utils.extras import extras_named


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``tiger`` command."""
    parser = Parser(
        prog="tiger",
        description="Generative retrieval for recommenders.",
        epilog="`tiger VERB --help` has the details. Answers go to standard output, all else to standard error. "
        "Exit codes: 0 done, 2 an error that you can fix, 130 interrupted, 141 the output was closed.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"tiger {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    add_import_verb(verbs)
    add_index_verb(verbs)
    add_train_verb(verbs)
    add_recommend_verbs(verbs)
    add_info_verb(verbs)
    add_items_verbs(verbs)
    add_evaluate_verb(verbs)
    add_push_verb(verbs)
    add_serving_verbs(verbs)
    add_completion_verb(verbs, parser)
    parser.know_both_spellings()
    args = parser.parse_args(argv)
    with friendly_errors(), extras_named():
        args.run(args)
        sys.stdout.flush()  # otherwise a closed pipe would go unnoticed
