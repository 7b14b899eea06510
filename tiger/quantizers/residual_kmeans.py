"""Residual k-means: codes without a neural encoder.

Level by level, k-means on what the levels before left over (residual quantization). Codebooks are fitted to a sample
and rows are quantized a chunk at a time, so that a million items need little more memory than their embeddings.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from tiger._moved import old_member
from tiger.embeddings.base import check_embeddings
from tiger.quantizers.base import ResidualQuantizer, check_enough_items
from tiger.quantizers.kmeans import MAX_POINTS, nearest_codes, residual_codebooks, sample_rows


class ResidualKMeansConfig(PreTrainedConfig):
    """Sizes of a :class:`ResidualKMeans`.

    Args:
        input_dim: dimensions of an embedding.
        num_codebooks: levels, codes per item.
        codebook_size: codes per level.
    """

    model_type = "tiger-residual-kmeans"

    input_dim: int = 768
    num_codebooks: int = 3
    codebook_size: int = 256


class ResidualKMeans(ResidualQuantizer):
    """Residual k-means with the same ``fit``, ``encode`` and ``decode`` as :class:`tiger.quantizers.rqvae.RQVAE`.

    Example::

        quantizer = ResidualKMeans.fit(embeddings, num_codebooks=3, codebook_size=256)
        codes = quantizer.encode(embeddings)  # int32 [items, 3]
    """

    kind = "residual-kmeans"
    config_class = ResidualKMeansConfig
    mean: torch.Tensor

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
            codebook_size: codes per level.
            iterations: Lloyd's iterations per level.
            max_points: rows that the codebooks are fitted to, a random sample where there are more.
            seed: equal embeddings and seed give equal codes on one machine, with any number of CPU threads.

        Raises:
            DataError: fewer distinct items than codes, or NaN in the embeddings.
        """
        embeddings = check_embeddings(embeddings)
        check_enough_items(embeddings, codebook_size)
        points = sample_rows(embeddings, max(max_points, 32 * codebook_size), seed)
        mean = torch.from_numpy(points.numpy().mean(axis=0, dtype=np.float64)).float()  # some devices have no float64
        points = points.to(device)
        model = cls(
            ResidualKMeansConfig(
                input_dim=embeddings.shape[1], num_codebooks=num_codebooks, codebook_size=codebook_size
            )
        )
        model.to(device)  # type: ignore[arg-type]  # transformers hides that it is a method
        with torch.no_grad():
            model.mean.copy_(mean)
            points -= model.mean
            codebooks = residual_codebooks(
                points, num_codebooks, codebook_size, iterations=iterations, seed=seed, progress=progress
            )
            model.codebooks.copy_(codebooks)
        return model.eval()

    @torch.no_grad()
    def truncate(self, input_dim: int) -> ResidualKMeans:
        """The same codebooks over the first dimensions alone: it gives codes to items without interactions."""
        sizes = {"num_codebooks": self.config.num_codebooks, "codebook_size": self.config.codebook_size}
        part = ResidualKMeans(ResidualKMeansConfig(input_dim=input_dim, **sizes))
        part.to(self.device)  # type: ignore[arg-type]  # transformers hides that it is a method
        part.codebooks.copy_(self.codebooks[..., :input_dim])
        part.mean.copy_(self.mean[:input_dim])
        return part.eval()

    def of_first(self, dimensions: int) -> ResidualKMeans:
        """Deprecated name of :meth:`truncate`."""
        return old_member(self, "of_first", "truncate")(dimensions)

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings - self.mean

    def reconstruct(self, points: torch.Tensor) -> torch.Tensor:
        return points + self.mean

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings [n, input_dim] to codes int64 [n, L] and the reconstruction [n, input_dim]."""
        codes, quantized = nearest_codes(self.project(embeddings), self.codebooks)
        return codes, self.reconstruct(quantized)
