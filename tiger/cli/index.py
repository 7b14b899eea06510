"""``tiger index``: files of items to a tokenizer, without a log."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout

from tiger.cli.engine import add_engine_options, cluster_of
from tiger.utils.errors import DataError
from tiger.utils.extras import require_extra


def add_index_verb(verbs) -> None:
    """``tiger index``."""
    index = verbs.add_parser("index", help="give semantic IDs to the items of many files, without a log")
    index.add_argument("files", nargs="+", metavar="FILE", help="parquet files of items, or their URLs")
    index.add_argument("--out", required=True, metavar="DIR", help="directory of the tokenizer")
    index.add_argument("--encoder", default="lsa", help="lsa (default), or a SentenceTransformer by name or folder")
    index.add_argument("--template", help="columns of an item's text, comma-separated")
    index.add_argument("--embedding_dim", type=int, default=256, help="dimensions of the LSA encoder (default 256)")
    index.add_argument("--quantizer", default="residual-kmeans", help="residual-kmeans (default) or rqvae")
    index.add_argument("--num_codebooks", type=int, default=0, help="levels of codes (default: by the items)")
    index.add_argument("--codebook_size", type=int, help="codes per level (default: by the items)")
    index.add_argument("--seed", type=int, default=0, help="default 0")
    index.add_argument("--work", metavar="PLACE", help="folder or URL of intermediate files (default: beside --out)")
    index.add_argument("--json", action="store_true", help="print JSON")
    add_engine_options(index)
    index.set_defaults(run=run_index)


def run_index(args: argparse.Namespace) -> None:
    require_extra("train")
    cluster = cluster_of(args)
    if args.embedding_dim < 1 or args.num_codebooks < 0 or (args.codebook_size or 1) < 1:
        raise DataError("--embedding_dim and --codebook_size must be at least 1, --num_codebooks at least 0.")
    from tiger.training.index import IndexArguments, index_items

    names = ("encoder", "template", "embedding_dim", "quantizer", "num_codebooks", "codebook_size", "seed", "work")
    told = IndexArguments(tuple(args.files), args.out, **{name: getattr(args, name) for name in names})
    with redirect_stdout(sys.stderr):
        if cluster is None:
            tokenizer = index_items(told)
        else:
            from tiger.scale.index import index_on_ray

            tokenizer = index_on_ray(told, cluster)
    if args.json:
        print(json.dumps({"out": args.out, "items": len(tokenizer), "fingerprint": tokenizer.fingerprint}))
    else:
        print(f"{args.out}: semantic IDs of {len(tokenizer):,} items")
