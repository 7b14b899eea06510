"""``tiger push``."""

from __future__ import annotations

import argparse
import json

from tiger.cli.common import load_recommender


def add_push_verb(verbs) -> None:
    """``tiger push``."""
    push = verbs.add_parser("push", help="publish a saved recommender on the Hub, with a model card")
    push.add_argument("model", metavar="RUN_DIR", help="a saved recommender, such as runs/demo/model")
    push.add_argument("repo_id", metavar="REPO_ID", help="owner/name; created if it does not exist")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    push.add_argument("--revision", help="a branch, created if it does not exist (default main)")
    push.add_argument("--message", default="Upload a tiger recommender", help="commit message")
    push.add_argument("--results", nargs="+", default=[], metavar="FILE", help="results of evaluation, for the card")
    push.add_argument("--with_items", action="store_true", help="publish the item table too, with titles")
    push.add_argument("--license", help="license of the weights, as the Hub spells it, such as apache-2.0")
    push.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="owner/name of its data on the Hub")
    push.add_argument("--json", action="store_true", help="print JSON")
    push.set_defaults(run=run_push)


def run_push(args: argparse.Namespace) -> None:
    from tiger.recommender.model_card import read_results

    results = read_results(args.results)
    commit = load_recommender(args.model).push_to_hub(
        args.repo_id,
        include_items=args.with_items,
        results=results,
        license=args.license,
        datasets=args.datasets,
        private=args.private,
        revision=args.revision,
        commit_message=args.message,
    )
    print(json.dumps({"url": commit.commit_url, "commit": commit.oid}) if args.json else commit.commit_url)
