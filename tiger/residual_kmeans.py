"""Residual k-means: codes without a neural encoder, and the arithmetic of residual codes that the RQ-VAE shares.

Level by level, k-means on what the levels before left over (residual quantisation). Codebooks are fitted to a sample
and rows are quantised a chunk at a time, so that a million items need little more memory than their embeddings.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

from tiger.data import DataError
from tiger.embeddings import check_embeddings

CHUNK = 16_384
MAX_POINTS = 100_000  # rows that codebooks are fitted to: 400 for each of 256 centres, 300 MB at 768 dimensions


def squared_distances(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """[n, d] and [k, d] to squared distances [n, k], less each point's own squared length (equal along a row)."""
    return torch.addmm((centres * centres).sum(dim=1), points, centres.T, alpha=-2)


def nearest_codes(points: torch.Tensor, codebooks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise level by level: [n, d] and codebooks [L, K, d] to codes int64 [n, L] and their sum [n, d]."""
    residual, codes = points, []
    for codebook in codebooks:
        codes.append(squared_distances(residual, codebook).argmin(dim=1))
        residual = residual - codebook[codes[-1]]
    return torch.stack(codes, dim=1), points - residual


def sum_of_codes(codes: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """Codes int64 [n, L] and codebooks [L, K, d] to the vectors that they stand for, [n, d]."""
    return codebooks[torch.arange(len(codebooks), device=codebooks.device), codes].sum(dim=1)


def balanced_codes(distances: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Codes int64 [n] that use every centre about equally, from squared distances [n, k].

    The argmax of Sinkhorn's transport plan (Cuturi, arXiv 1306.0895).

    Args:
        epsilon: temperature in units of the mean distance above a row's nearest centre; small is close to nearest.
        iterations: times that columns and rows are normalised.
    """
    excess = distances - distances.min(dim=1, keepdim=True).values
    plan = torch.exp(-excess / (epsilon * excess.mean()).clamp(min=1e-12))
    for _ in range(iterations):
        plan = plan / plan.sum(dim=0, keepdim=True).clamp(min=1e-30)
        plan = plan / plan.sum(dim=1, keepdim=True).clamp(min=1e-30)
    return plan.argmax(dim=1)


def kmeans(points: torch.Tensor, num_centres: int, *, iterations: int = 20, seed: int = 0) -> torch.Tensor:
    """Lloyd's iterations from k-means++ seeds (Arthur & Vassilvitskii 2007): [n, d] to centres [num_centres, d].

    The first quarter of the iterations gives every centre about as many points: in hundreds of dimensions a seed is
    far from all other points, would own itself alone and stay where it is (on the 384 dimensions of Beauty this takes
    the error of three levels from .42 to .38). A centre that loses all its points moves to one of the points that are
    farthest from theirs. Deterministic by seed on the CPU. Stops when no point changes its centre.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = _seeds(points, num_centres, generator)
    previous, balanced = None, iterations // 4
    for iteration in range(iterations):
        labels, distances = [], []
        sums, counts = torch.zeros_like(centres), torch.zeros(num_centres, device=points.device)
        for chunk in points.split(CHUNK):
            every = squared_distances(chunk, centres)
            distance, label = every.min(dim=1)
            if iteration < balanced:
                label = balanced_codes(every, epsilon=0.05, iterations=20)
            labels.append(label)
            distances.append(distance + (chunk * chunk).sum(dim=1))
            sums.index_add_(0, label, chunk)
            counts.index_add_(0, label, torch.ones_like(distance))
        label = torch.cat(labels)
        if iteration > balanced and torch.equal(label, previous):
            break
        previous = label
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            # Not to a point that a centre has to itself: that centre is about to move there.
            distance = torch.where(counts[label] > 1, torch.cat(distances), -1.0)
            centres[empty] = points[distance.topk(len(empty)).indices]
    return centres


def _seeds(points: torch.Tensor, num_centres: int, generator: torch.Generator) -> torch.Tensor:
    # A sample is enough to seed from, and keeps the sequential part short on large catalogues.
    size = min(len(points), max(16 * num_centres, 4096))
    sample = points[torch.randperm(len(points), generator=generator)[:size].to(points.device)]
    norms = (sample * sample).sum(dim=1)
    chosen = [int(torch.randint(size, (1,), generator=generator))]
    distances = torch.full_like(norms, torch.inf)
    while len(chosen) < num_centres:
        centre = sample[chosen[-1]]
        distances = torch.minimum(distances, (norms - 2 * (sample @ centre) + centre @ centre).clamp(min=0))
        cumulative = distances.double().cumsum(0)
        draw = torch.rand(1, generator=generator, dtype=torch.float64).to(points.device) * cumulative[-1]
        chosen.append(min(int(torch.searchsorted(cumulative, draw)), size - 1))
    return sample[chosen].clone()


def residual_codebooks(
    points: torch.Tensor, num_codebooks: int, codebook_size: int, *, iterations: int, seed: int, progress: bool = False
) -> torch.Tensor:
    """k-means of the points, then of what it leaves over, and so on: [n, d] to codebooks [L, K, d]."""
    residual, codebooks = points, []
    for level in tqdm(range(num_codebooks), desc="residual k-means", unit="level", disable=not progress):
        codebooks.append(kmeans(residual, codebook_size, iterations=iterations, seed=seed + level))
        residual = residual - nearest_codes(residual, codebooks[-1][None])[1]
    return torch.stack(codebooks)


def check_enough_items(embeddings: np.ndarray, codebook_size: int) -> None:
    """Refuse fewer distinct rows than codes, which no codebook could use.

    Raises:
        DataError: with both numbers and the remedy.
    """
    distinct = set()
    for row in embeddings:
        distinct.add(row.tobytes())
        if len(distinct) >= codebook_size:
            return
    raise DataError(
        f"{len(embeddings)} items have {len(distinct)} distinct embeddings, fewer than the {codebook_size} codes of a "
        f"level. Give codebook_size={max(1, len(distinct) // 4)} or less, or more items."
    )


def sample_rows(embeddings: np.ndarray, max_rows: int, seed: int) -> torch.Tensor:
    """At most ``max_rows`` of the rows, in their order, as a float32 tensor of its own."""
    if len(embeddings) <= max_rows:
        return torch.tensor(embeddings)
    rows = np.random.default_rng(seed).choice(len(embeddings), size=max_rows, replace=False)
    return torch.from_numpy(embeddings[np.sort(rows)])


class ResidualKMeansConfig(PreTrainedConfig):
    """Sizes of a :class:`ResidualKMeans`.

    Args:
        input_dim: dimensions of an embedding.
        num_codebooks: levels, codes an item.
        codebook_size: codes a level.
    """

    model_type = "tiger-residual-kmeans"

    input_dim: int = 768
    num_codebooks: int = 3
    codebook_size: int = 256


class ResidualKMeans(PreTrainedModel):
    """Residual k-means with the same ``fit``, ``encode`` and ``decode`` as :class:`tiger.rqvae.RQVAE`.

    Example::

        quantizer = ResidualKMeans.fit(embeddings, num_codebooks=3, codebook_size=256)
        codes = quantizer.encode(embeddings)  # int32 [items, 3]
    """

    config_class = ResidualKMeansConfig
    base_model_prefix = "quantizer"
    main_input_name = "embeddings"

    def __init__(self, config: ResidualKMeansConfig) -> None:
        super().__init__(config)
        self.codebooks = nn.Parameter(torch.zeros(config.num_codebooks, config.codebook_size, config.input_dim))
        self.register_buffer("mean", torch.zeros(config.input_dim))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ResidualKMeans):
            nn.init.zeros_(module.codebooks)
            nn.init.zeros_(module.mean)

    @classmethod
    def fit(
        cls,
        embeddings: np.ndarray | torch.Tensor,
        num_codebooks: int = 3,
        codebook_size: int = 256,
        *,
        iterations: int = 20,
        max_points: int = MAX_POINTS,
        seed: int = 0,
        device: str | torch.device = "cpu",
        progress: bool = True,
    ) -> ResidualKMeans:
        """Learn the codebooks of a matrix of embeddings.

        Args:
            embeddings: float [items, input_dim].
            num_codebooks: levels.
            codebook_size: codes a level.
            iterations: Lloyd's iterations a level.
            max_points: rows that the codebooks are fitted to, a random sample where there are more.
            seed: equal embeddings and seed give equal codes on one machine.

        Raises:
            DataError: fewer distinct items than codes, or NaN in the embeddings.
        """
        embeddings = check_embeddings(embeddings)
        check_enough_items(embeddings, codebook_size)
        points = sample_rows(embeddings, max(max_points, 32 * codebook_size), seed).to(device)
        model = cls(
            ResidualKMeansConfig(
                input_dim=embeddings.shape[1], num_codebooks=num_codebooks, codebook_size=codebook_size
            )
        ).to(device)
        with torch.no_grad():
            model.mean.copy_(points.mean(dim=0))
            points -= model.mean
            codebooks = residual_codebooks(
                points, num_codebooks, codebook_size, iterations=iterations, seed=seed, progress=progress
            )
            model.codebooks.copy_(codebooks)
        return model.eval()

    @torch.no_grad()
    def of_first(self, dimensions: int) -> ResidualKMeans:
        """The same codebooks by their first dimensions alone: codes for items of which no more is known."""
        sizes = {"num_codebooks": self.config.num_codebooks, "codebook_size": self.config.codebook_size}
        part = ResidualKMeans(ResidualKMeansConfig(input_dim=dimensions, **sizes)).to(self.device)
        part.codebooks.copy_(self.codebooks[..., :dimensions])
        part.mean.copy_(self.mean[:dimensions])
        return part.eval()

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings [n, input_dim] to codes int64 [n, L] and the reconstruction [n, input_dim]."""
        codes, quantised = nearest_codes(embeddings - self.mean, self.codebooks)
        return codes, quantised + self.mean

    @torch.no_grad()
    def encode(self, embeddings: np.ndarray | torch.Tensor, batch_size: int = CHUNK) -> np.ndarray:
        """Codes of embeddings [n, input_dim]: int32 [n, L]. A row's codes depend on that row alone.

        Raises:
            DataError: another number of dimensions than was fitted, or NaN.
        """
        embeddings = check_embeddings(embeddings)
        check_dimensions(embeddings, self.config.input_dim)
        codes = [
            self(torch.tensor(embeddings[start : start + batch_size], device=self.device))[0].cpu()
            for start in range(0, len(embeddings), batch_size)
        ]
        return torch.cat(codes).numpy().astype(np.int32)

    @torch.no_grad()
    def decode(self, codes: np.ndarray | torch.Tensor, batch_size: int = CHUNK) -> np.ndarray:
        """The embeddings that codes int [n, L] stand for: float32 [n, input_dim]."""
        codes = check_codes(codes, self.config.num_codebooks, self.config.codebook_size)
        vectors = [
            sum_of_codes(chunk.to(self.device), self.codebooks) + self.mean for chunk in codes.split(batch_size)
        ]
        return torch.cat([chunk.cpu() for chunk in vectors]).numpy()


def check_dimensions(embeddings: np.ndarray, input_dim: int) -> None:
    """Raises:
    DataError: the embeddings have another width than the quantizer was fitted to.
    """
    if embeddings.shape[1] != input_dim:
        raise DataError(
            f"embeddings have {embeddings.shape[1]} dimensions, the quantizer was fitted to {input_dim}. "
            "Embed the items with the encoder that it was fitted with."
        )


def check_codes(codes: np.ndarray | torch.Tensor, num_codebooks: int, codebook_size: int) -> torch.Tensor:
    """Codes as int64 [n, L].

    Raises:
        DataError: another number of levels, or a code outside 0..codebook_size-1.
    """
    codes = torch.as_tensor(codes).long()
    if codes.ndim != 2 or codes.shape[1] != num_codebooks:
        raise DataError(f"codes must be [n, {num_codebooks}], got {list(codes.shape)}.")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < codebook_size:
        raise DataError(f"codes must be 0..{codebook_size - 1}, got {int(codes.min())}..{int(codes.max())}.")
    return codes
