"""A control: random codes, as many and as long as a tokenizer's, so that codes mean nothing.

python recipes/paper/random_codes.py runs/paper/beauty/tokenizer runs/paper/beauty/random [--seed 0]
"""

from __future__ import annotations

import argparse

import numpy as np

from tiger.cli.common import friendly_errors
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", help="what recipes/tokenizer.py wrote")
    parser.add_argument("output_dir", help="where the one with random codes goes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with friendly_errors():
        given = SemanticIdTokenizer.from_pretrained(args.tokenizer)
        codes = np.random.default_rng(args.seed).integers(given.codebook_size, size=given.codes.shape)
        SemanticIdTokenizer(codes, given.item_ids, given.codebook_size).save_pretrained(args.output_dir)
        print(f"{len(given)} items, {len(np.unique(codes, axis=0))} distinct tuples of codes: {args.output_dir}")


if __name__ == "__main__":
    main()
