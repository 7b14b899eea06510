"""``tiger``: the library on the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tiger.data import DataError


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Tell what a user can mend in one line and exit with 2, after Ctrl-C with 130; all else keeps its traceback."""
    try:
        yield
    except (DataError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has seen enough (`| head`): there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``tiger`` command."""
    parser = argparse.ArgumentParser(prog="tiger", description="Generative retrieval for recommenders.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    recommend = verbs.add_parser("recommend", help="items that may come next after a history")
    recommend.add_argument("model", metavar="RUN_OR_REPO", help="runs/demo/model, or owner/name on the Hub")
    recommend.add_argument("--revision", help="branch, tag or commit on the Hub")
    recommend.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first")
    recommend.add_argument("-k", type=int, default=10, help="how many items (default 10)")
    recommend.add_argument("--num_beams", type=int, default=50, help="beams (default 50)")
    recommend.add_argument("--temperature", type=float, help="sample instead of taking the most probable")
    recommend.add_argument("--seed", type=int, help="of sampling")
    recommend.add_argument("--keep_history", action="store_true", help="allow items of the history in the answer")
    recommend.add_argument("--json", action="store_true", help="print JSON")
    recommend.set_defaults(run=_recommend)
    rank = verbs.add_parser("rank", help="candidates in the order in which a history's owner may want them")
    rank.add_argument("model", metavar="RUN_OR_REPO", help="a saved recommender that holds a ranker")
    rank.add_argument("--revision", help="branch, tag or commit on the Hub")
    rank.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first")
    rank.add_argument("--candidates", nargs="+", required=True, metavar="ID", help="item ids to put in order")
    rank.add_argument("--json", action="store_true", help="print JSON")
    rank.set_defaults(run=_rank)
    push = verbs.add_parser("push", help="publish a saved recommender on the Hub, with a model card")
    push.add_argument("model", metavar="RUN_DIR", help="a saved recommender, such as runs/demo/model")
    push.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made where there is none")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository a private one")
    push.add_argument("--revision", help="a branch, made where there is none (default main)")
    push.add_argument("--message", default="Upload a tiger recommender", help="of the commit")
    push.add_argument("--results", nargs="+", default=[], metavar="FILE", help="results of evaluation, for the card")
    push.add_argument("--with_items", action="store_true", help="publish the item table too, titles and all")
    push.add_argument("--license", help="of the weights, as the Hub spells it, such as apache-2.0")
    push.add_argument("--json", action="store_true", help="print JSON")
    push.set_defaults(run=_push)
    args = parser.parse_args(argv)
    with friendly_errors():
        args.run(args)


def _recommend(args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    from tiger.recommender import TigerRecommender  # seconds to import, not needed for --help

    disable_progress_bar()
    if args.k < 1 or (args.temperature is not None and args.temperature <= 0):
        raise DataError("-k must be at least 1 and --temperature positive.")
    tiger = TigerRecommender.from_pretrained(args.model, revision=args.revision)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (items,), scores = tiger.recommend(
            [args.history],
            k=args.k,
            num_beams=max(args.num_beams, args.k),
            exclude_history=not args.keep_history,
            temperature=args.temperature,
            seed=args.seed,
        )
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    _print(tiger, items, scores[0], args.json)


def _rank(args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    from tiger.recommender import TigerRecommender

    disable_progress_bar()
    tiger = TigerRecommender.from_pretrained(args.model, revision=args.revision)
    (items,), scores = tiger.rank([args.history], [args.candidates])
    _print(tiger, items, scores[0], args.json)


def _push(args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    from tiger.model_card import read_results
    from tiger.recommender import TigerRecommender

    disable_progress_bar()
    results = read_results(args.results)
    commit = TigerRecommender.from_pretrained(args.model).push_to_hub(
        args.repo_id,
        include_items=args.with_items,
        results=results,
        license=args.license,
        private=args.private,
        revision=args.revision,
        commit_message=args.message,
    )
    print(json.dumps({"url": commit.commit_url, "commit": commit.oid}) if args.json else commit.commit_url)


def _print(tiger, items: list[str], scores, as_json: bool) -> None:
    titles = tiger.titles(items)
    if as_json:
        answer = [
            {"item_id": item, "title": title, "score": round(float(score), 5)}
            for item, title, score in zip(items, titles, scores)
        ]
        print(json.dumps(answer, ensure_ascii=False))
        return
    for item, title, score in zip(items, titles, scores):
        print(f"{score:8.3f}  {item}  {title if title != item else ''}".rstrip())


if __name__ == "__main__":
    main()
