"""Semantic IDs of other kinds, as many and as long as a tokenizer's, to see what the RQ-VAE's are worth.

    python recipes/paper/codes.py random runs/paper/beauty/tokenizer runs/paper/beauty/random [--seed 0]
    python recipes/paper/codes.py lsh runs/paper/beauty/tokenizer runs/paper/beauty/lsh [--embeddings FILE]

``random``: codes mean nothing. ``lsh``: a bit per random hyperplane. ``kmeans``: residual k-means of the vectors.
``product``: the principal axes dealt out to the levels in turn, k-means in each.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.quantizers.kmeans import kmeans, nearest_codes
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.tokenizer import saved_vectors


def random_codes(vectors: np.ndarray, levels: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(size, size=(len(vectors), levels))


def lsh(vectors: np.ndarray, levels: int, size: int, seed: int) -> np.ndarray:
    """log2(size) bits a level, each the side of a random hyperplane through the mean."""
    bits = size.bit_length() - 1
    planes = np.random.default_rng(seed).standard_normal((vectors.shape[1], levels * bits))
    sides = (vectors - vectors.mean(axis=0)) @ planes > 0
    return sides.reshape(-1, levels, bits) @ (1 << np.arange(bits))


def residual_kmeans(vectors: np.ndarray, levels: int, size: int, seed: int) -> np.ndarray:
    return ResidualKMeans.fit(vectors, levels, size, seed=seed, progress=False).encode(vectors)


def product(vectors: np.ndarray, levels: int, size: int, seed: int) -> np.ndarray:
    centered = vectors - vectors.mean(axis=0)
    axes = np.linalg.svd(centered, full_matrices=False)[2]
    points = torch.from_numpy(centered @ axes.T)
    columns = []
    for level in range(levels):
        part = points[:, level::levels].contiguous()
        columns.append(nearest_codes(part, kmeans(part, size, seed=seed + level)[None])[0][:, 0])
    return torch.stack(columns, dim=1).numpy()


KINDS = {"random": random_codes, "lsh": lsh, "kmeans": residual_kmeans, "product": product}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("tokenizer", help="what recipes/tokenizer.py wrote")
    parser.add_argument("output_dir", help="where the one with other codes goes")
    parser.add_argument("--dataset", help="dataset directory, unless the kind is random")
    parser.add_argument("--embeddings", help="safetensors with the items' vectors, in place of running the encoder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.kind != "random" and not args.dataset:
        parser.error(f"{args.kind} needs --dataset")
    with friendly_errors():
        given = SemanticIdTokenizer.from_pretrained(args.tokenizer)
        vectors = np.empty((len(given), 0), np.float32)
        if args.kind != "random":
            data = RecommendationData.load(args.dataset)
            vectors = np.asarray(saved_vectors(args.tokenizer, args.embeddings, data), np.float32)
        codes = KINDS[args.kind](vectors, given.codes.shape[1], given.codebook_size, args.seed)
        SemanticIdTokenizer(codes, given.item_ids, given.codebook_size).save_pretrained(args.output_dir)
        print(f"{len(given)} items, {len(np.unique(codes, axis=0))} distinct tuples of codes: {args.output_dir}")


if __name__ == "__main__":
    main()
