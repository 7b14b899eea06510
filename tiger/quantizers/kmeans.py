"""k-means, and arithmetic on residual codes that all quantizers share.

What is fitted doesn't depend on the number of CPU threads. Threads share out the columns of a matrix, and a column's
last bit depends on whether it falls into a full block of columns or into what is left over: so widths are filled up
to full blocks. They also share out the rows of a sum over everything: so such sums are taken row by row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional
from tqdm.auto import tqdm

from tiger.utils import devices
from tiger.utils.sampling import sampled_rows

CHUNK = 16_384
# Columns of a full block: up to 96 threads gave equal bits at multiples of it (torch 2.13 with MKL, AVX-512), and not
# at 24 or 100 columns.
BLOCK = 16
MAX_POINTS = 100_000  # rows that codebooks are fitted to: 400 for each of 256 centers, 300 MB at 768 dimensions


def squared_distances(points: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """[n, d] and [k, d] to squared distances [n, k], less each point's own squared length (equal along a row)."""
    num_centers = len(centers)
    if missing := -num_centers % BLOCK:
        centers = functional.pad(centers, (0, 0, 0, missing))
    return torch.addmm((centers * centers).sum(dim=1), points, centers.T, alpha=-2)[:, :num_centers]


def nearest_codes(points: torch.Tensor, codebooks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize level by level: [n, d] and codebooks [L, K, d] to codes int64 [n, L] and their sum [n, d]."""
    residual, codes = points, []
    for codebook in codebooks:
        codes.append(squared_distances(residual, codebook).argmin(dim=1))
        residual = residual - codebook[codes[-1]]
    return torch.stack(codes, dim=1), points - residual


def sum_of_codes(codes: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """Codes int64 [n, L] and codebooks [L, K, d] to the vectors that they stand for, [n, d]."""
    return codebooks[torch.arange(len(codebooks), device=codebooks.device), codes].sum(dim=1)


def balanced_codes(distances: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Codes int64 [n] that use every center about equally, from squared distances [n, k].

    The argmax of Sinkhorn's transport plan (Cuturi, arXiv 1306.0895).

    Args:
        epsilon: temperature in units of the mean distance above a row's nearest center; small is close to nearest.
        iterations: times that columns and rows are normalized.
    """
    excess = distances - distances.min(dim=1, keepdim=True).values
    mean = torch.stack([part.sum() for part in excess.mean(dim=1).split(CHUNK)]).sum() / len(excess)
    if missing := -excess.shape[1] % BLOCK:
        excess = functional.pad(excess, (0, missing), value=torch.inf)  # columns that get nothing
    plan = torch.exp(-excess / (epsilon * mean).clamp(min=1e-12))
    for _ in range(iterations):
        plan = plan / plan.sum(dim=0, keepdim=True).clamp(min=1e-30)
        plan = plan / plan.sum(dim=1, keepdim=True).clamp(min=1e-30)
    return plan.argmax(dim=1)


def kmeans(points: torch.Tensor, num_centers: int, *, iterations: int = 20, seed: int = 0) -> torch.Tensor:
    """Lloyd's iterations from k-means++ seeds (Arthur & Vassilvitskii 2007): [n, d] to centers [num_centers, d].

    The first quarter of the iterations gives every center about as many points: in hundreds of dimensions a seed is
    far from all other points, would own itself alone and stay where it is (on the 384 dimensions of Beauty this takes
    the error of three levels from .42 to .38). A center that loses all its points moves to one of the points that are
    farthest from theirs. Deterministic by seed on the CPU, with any number of
    threads. Stops when no point changes its center.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = _seeds(points, num_centers, generator)
    previous: torch.Tensor | None = None
    balanced = iterations // 4
    for iteration in range(iterations):
        labels, distances = [], []
        sums, counts = torch.zeros_like(centers), torch.zeros(num_centers, device=points.device)
        for chunk in points.split(CHUNK):
            every = squared_distances(chunk, centers)
            distance, label = every.min(dim=1)
            if iteration < balanced:
                label = balanced_codes(every, epsilon=0.05, iterations=20)
            labels.append(label)
            distances.append(distance + (chunk * chunk).sum(dim=1))
            sums.index_add_(0, label, chunk)
            counts.index_add_(0, label, torch.ones_like(distance))
        label = torch.cat(labels)
        changed = torch.ones_like(counts[0]) if previous is None else (label != previous).any()
        # Both questions in one: an accelerator is waited for once an iteration.
        moved, without_points = torch.stack([changed.to(counts.dtype), (counts == 0).sum().to(counts.dtype)]).tolist()
        if iteration > balanced and not moved:
            break
        previous = label
        centers = sums / counts.clamp(min=1)[:, None]
        if without_points:
            empty = (counts == 0).nonzero().squeeze(1)
            # Not to a point that a center has to itself: that center is about to move there.
            distance = torch.where(counts[label] > 1, torch.cat(distances), -1.0)
            centers[empty] = points[distance.topk(len(empty)).indices]
    return centers


def _seeds(points: torch.Tensor, num_centers: int, generator: torch.Generator) -> torch.Tensor:
    # A sample is enough to seed from, and keeps the sequential part short on large catalogs.
    size = min(len(points), max(16 * num_centers, 4096))
    sample = points[torch.randperm(len(points), generator=generator)[:size].to(points.device)]
    norms = (sample * sample).sum(dim=1)
    first = torch.randint(size, (1,), generator=generator)
    on_host = devices.is_host(points.device)
    wide = devices.widest_float(points.device)
    # All at once, and no seed's number is read: an accelerator is not waited for between them.
    draws = torch.rand(num_centers - 1, generator=generator, dtype=torch.float64).to(wide).to(points.device)
    chosen = [first.to(points.device)]
    distances = torch.full_like(norms, torch.inf)
    for draw in draws.split(1):
        # On a CPU the row where it lies: products with a copy of it, aligned otherwise, may differ in the last bit.
        center = sample[int(chosen[-1])] if on_host else sample[chosen[-1]].squeeze(0)
        distances = torch.minimum(distances, (norms - 2 * (sample @ center) + center @ center).clamp(min=0))
        cumulative = distances.to(wide).cumsum(0)
        chosen.append(torch.searchsorted(cumulative, draw * cumulative[-1]).clamp(max=size - 1))
    return sample[torch.cat(chosen)]


def residual_codebooks(
    points: torch.Tensor, num_codebooks: int, codebook_size: int, *, iterations: int, seed: int, progress: bool = False
) -> torch.Tensor:
    """Residual k-means: cluster the points, then the residuals, level by level; [n, d] to codebooks [L, K, d]."""
    residual, codebooks = points, []
    for level in tqdm(range(num_codebooks), desc="residual k-means", unit="level", disable=not progress):
        codebooks.append(kmeans(residual, codebook_size, iterations=iterations, seed=seed + level))
        residual = residual - nearest_codes(residual, codebooks[-1][None])[1]
    return torch.stack(codebooks)


def sample_rows(embeddings: np.ndarray, max_rows: int, seed: int) -> torch.Tensor:
    """At most ``max_rows`` of the rows, in their order, as a float32 tensor of its own."""
    if len(embeddings) <= max_rows:
        return torch.tensor(embeddings)
    return torch.from_numpy(embeddings[sampled_rows(len(embeddings), max_rows, seed)])
