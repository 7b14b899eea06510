"""``tiger``: the library on the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
    recommend.add_argument("model", metavar="RUN_DIR", help="a saved recommender, such as runs/demo/model")
    recommend.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first")
    recommend.add_argument("-k", type=int, default=10, help="how many items (default 10)")
    recommend.add_argument("--num_beams", type=int, default=50, help="beams (default 50)")
    recommend.add_argument("--temperature", type=float, help="sample instead of taking the most probable")
    recommend.add_argument("--seed", type=int, help="of sampling")
    recommend.add_argument("--keep_history", action="store_true", help="allow items of the history in the answer")
    recommend.add_argument("--json", action="store_true", help="print JSON")
    recommend.set_defaults(run=_recommend)
    rank = verbs.add_parser("rank", help="candidates in the order in which a history's owner may want them")
    rank.add_argument("model", metavar="RUN_DIR", help="a saved recommender that holds a ranker")
    rank.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first")
    rank.add_argument("--candidates", nargs="+", required=True, metavar="ID", help="item ids to put in order")
    rank.add_argument("--json", action="store_true", help="print JSON")
    rank.set_defaults(run=_rank)
    _add_app(verbs)
    _add_serve(verbs)
    args = parser.parse_args(argv)
    with friendly_errors():
        args.run(args)


def _recommend(args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    from tiger.recommender import TigerRecommender  # seconds to import, not needed for --help

    disable_progress_bar()
    if args.k < 1 or (args.temperature is not None and args.temperature <= 0):
        raise DataError("-k must be at least 1 and --temperature positive.")
    tiger = TigerRecommender.from_pretrained(args.model)
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
    tiger = TigerRecommender.from_pretrained(args.model)
    (items,), scores = tiger.rank([args.history], [args.candidates])
    _print(tiger, items, scores[0], args.json)


def _add_app(verbs) -> None:
    app = verbs.add_parser("app", help="a page to try it on")
    app.add_argument("model", metavar="RUN_OR_REPO", help="a saved recommender, such as runs/demo/model")
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    app.add_argument("--port", type=int, default=7860, help="default 7860")
    app.add_argument("--share", action="store_true", help="open a tunnel through Gradio's servers for anybody")
    app.set_defaults(run=_app)


def _app(args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    with needs_extra("app"):
        from tiger.app import launch
    from tiger.recommender import TigerRecommender

    disable_progress_bar()
    launch(TigerRecommender.from_pretrained(args.model), args.host, args.port, args.share)


def _add_serve(verbs) -> None:
    serve = verbs.add_parser("serve", help="answer over HTTP")
    serve.add_argument("model", metavar="RUN_OR_REPO", help="a saved recommender, such as runs/demo/model")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    serve.add_argument("--port", type=int, default=8000, help="0: any that is free (default 8000)")
    serve.add_argument("--device", default="cpu", help="such as cuda (default cpu)")
    serve.add_argument("--max_batch", type=int, default=16, help="histories in a batch (default 16)")
    serve.add_argument("--max_delay_ms", type=float, default=5.0, help="how long one waits for company (default 5)")
    serve.add_argument("--max_queue", type=int, default=1024, help="histories that may wait (default 1024)")
    serve.add_argument("--bf16", action="store_true", help="products in bfloat16: often faster, scores less exact")
    serve.add_argument("--read_only", action="store_true", help="refuse to add and remove items")
    serve.add_argument("--save", action="store_true", help="write the recommender back after every update")
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    with needs_extra("serve"):
        from tiger.service import ServiceSettings, create_app, serve
    from tiger.recommender import TigerRecommender

    if args.save and not os.path.isdir(args.model):
        raise DataError(f"--save writes to a directory, and {args.model} is none: save the recommender to one first.")
    settings = ServiceSettings(
        max_batch=args.max_batch,
        max_delay_ms=args.max_delay_ms,
        max_queue=args.max_queue,
        bf16=args.bf16,
        read_only=args.read_only,
        save=Path(args.model) if args.save else None,
    )
    disable_progress_bar()
    serve(create_app(TigerRecommender.from_pretrained(args.model, device=args.device), settings), args.host, args.port)


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Say which extra to install where a package of it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is missing: pip install 'tiger-recommender[{name}]'.") from error


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
