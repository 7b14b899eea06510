"""``tiger push``."""

from __future__ import annotations

import argparse
import json

from tiger.cli.common import load_recommender


def run_push(args: argparse.Namespace) -> None:
    from tiger.recommender.model_card import read_results

    results = read_results(args.results)
    commit = load_recommender(args.model).push_to_hub(
        args.repo_id,
        include_items=args.with_items,
        results=results,
        license=args.license,
        private=args.private,
        revision=args.revision,
        commit_message=args.message,
    )
    print(json.dumps({"url": commit.commit_url, "commit": commit.oid}) if args.json else commit.commit_url)
