"""RQ-VAE: embeddings to short tuples of codes (TIGER, arXiv 2305.05065, section 3.1).

An MLP squeezes an embedding into a small latent vector, residual quantization writes that as one code per level, and a
mirrored MLP reads the embedding back from the codes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from tiger import _moved
from tiger.embeddings.base import check_embeddings
from tiger.quantizers.base import ResidualQuantizer, check_enough_items
from tiger.quantizers.kmeans import (
    BLOCK,
    CHUNK,
    MAX_POINTS,
    balanced_codes,
    nearest_codes,
    residual_codebooks,
    sample_rows,
    squared_distances,
)
from tiger.utils.auto_classes import register
from tiger.utils.errors import DataError
from tiger.utils.schema import list_of, number, whole

_SIZES = {"hidden_sizes", "latent_dim", "commitment_weight", "sinkhorn_epsilon", "sinkhorn_iterations"}


class RQVAEConfig(PreTrainedConfig):
    """Sizes and loss of an :class:`RQVAE`; the defaults are the paper's.

    Args:
        input_dim: dimensions of an embedding.
        hidden_sizes: widths of the encoder's ReLU layers; the decoder mirrors them.
        latent_dim: dimensions of what is quantized.
        num_codebooks: levels, codes per item.
        codebook_size: codes per level.
        commitment_weight: weight of the pull of latents towards their codes.
        sinkhorn_epsilon: softness of the balanced assignment on the last level in training; 0 turns it off.
        sinkhorn_iterations: its normalizations.
    """

    model_type = "tiger-rqvae"

    input_dim: int = 768
    hidden_sizes: list[int] | tuple[int, ...] = (512, 256, 128)
    latent_dim: int = 32
    num_codebooks: int = 3
    codebook_size: int = 256
    commitment_weight: float = 0.25
    sinkhorn_epsilon: float = 0.02
    sinkhorn_iterations: int = 10


@dataclass(frozen=True)
class RQVAETraining:
    """Options of training an :class:`RQVAE`.

    Args:
        steps: optimizer steps; None or 0: 60 passes over the items, but at least 700 and at most 20,000 steps.
        batch_size: items per step; None: 512, or twice the codebook size where that is more.
        learning_rate: AdamW's peak; falls to 2% of it by a half cosine.
        seed: equal embeddings and seed give equal codes on one machine, with any number of CPU threads.
        device: where to train.
        progress: show a bar.
    """

    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float = 3e-3
    seed: int = 0
    device: str | torch.device = "cpu"
    progress: bool = True

    def resolved(self, num_items: int, codebook_size: int) -> RQVAETraining:
        """Return these options with None replaced by the values for this number of items.

        Raises:
            DataError: fewer than no steps.
        """
        if self.steps is not None and self.steps < 0:
            raise DataError(f"an RQ-VAE can't be trained for {self.steps} steps: give more, or 0 for the default.")
        # With fewer items than codes in a batch, used and dead codes look alike.
        batch_size = self.batch_size or max(512, 2 * codebook_size)
        steps = self.steps or min(max(60 * num_items // batch_size, 700), 20_000)
        return replace(self, batch_size=batch_size, steps=steps)


@dataclass
class RQVAEOutput(ModelOutput):
    """Loss and codes of a batch of embeddings.

    Args:
        loss: reconstruction + quantization.
        reconstruction_loss: squared error in standardized space, summed over dimensions, mean over the batch.
        quantization_loss: codebook + weighted commitment terms, summed over levels.
        codes: int64 [n, L].
        latents: [n, latent_dim], before quantization.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    quantization_loss: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    latents: torch.Tensor | None = None

    @property
    def quantisation_loss(self) -> torch.Tensor | None:
        """Deprecated name of ``quantization_loss``."""
        return _moved.old_member(self, "quantisation_loss", "quantization_loss")


class RQVAE(ResidualQuantizer):
    """Residual-quantized variational autoencoder over item embeddings.

    Example::

        quantizer = RQVAE.fit(embeddings, num_codebooks=3, codebook_size=256)
        codes = quantizer.encode(embeddings)  # int32 [items, 3]
        quantizer.save_pretrained("codes")
    """

    kind = "rqvae"
    config_class = RQVAEConfig
    mean: torch.Tensor
    scale: torch.Tensor
    initialised: torch.Tensor

    config_rules = {
        "hidden_sizes": list_of(whole(1, 1 << 20), longest=64),
        "latent_dim": whole(1, 1 << 20),
        "commitment_weight": number(0, 1e6),
        "sinkhorn_epsilon": number(0, 1e6),
        "sinkhorn_iterations": whole(0, 10_000),
    }

    def __init__(self, config: RQVAEConfig) -> None:
        super().__init__(config)
        widths = [config.input_dim, *config.hidden_sizes, config.latent_dim]
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.codebooks = nn.Parameter(torch.zeros(config.num_codebooks, config.codebook_size, config.latent_dim))
        # Persistent, all three: a model read from disk must standardize as it did, and not start its codebooks anew.
        self.register_buffer("mean", torch.zeros(config.input_dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # torch's small default, not He's: a nearly linear start keeps near items near, and reconstructs better.
            module.reset_parameters()
        elif isinstance(module, RQVAE):
            nn.init.zeros_(module.codebooks)
            nn.init.zeros_(module.mean)
            nn.init.ones_(module.scale)
            nn.init.zeros_(module.initialised)

    def forward(self, embeddings: torch.Tensor) -> RQVAEOutput:
        """Compute the loss of a batch of raw embeddings [n, input_dim].

        ``||x - x̂||² + sum over levels of ||sg[r] - e||² + commitment_weight ||r - sg[e]||²`` (TIGER, section 3.1),
        with x standardized and gradients passed straight through the quantization (van den Oord et al.,
        arXiv 1711.00937).
        Until the codebooks are initialized, the autoencoder alone is trained.
        """
        inputs = self._standardize(embeddings)
        latents = self.encoder(inputs)
        codes, quantization_loss, quantized = None, latents.new_zeros(()), latents
        if self.is_initialized():
            codes, quantization_loss, quantized = self._quantize(latents)
        # Summed over dimensions: a mean would let the latents' few outweigh the input's hundreds, and codes collapse.
        reconstruction_loss = (self.decoder(quantized) - inputs).square().sum(dim=1).mean()
        return RQVAEOutput(
            loss=reconstruction_loss + quantization_loss,
            reconstruction_loss=reconstruction_loss,
            quantization_loss=quantization_loss,
            codes=codes,
            latents=latents,
        )

    def is_initialized(self) -> bool:
        """Whether the codebooks are. The buffer is read after changes only: an accelerator would be waited for."""
        buffer = self.initialised
        if buffer.is_inference():  # it counts no changes
            return bool(buffer)
        seen = getattr(self, "_codebooks_seen", None)
        if seen is None or seen[0] is not buffer or seen[1] != buffer._version:
            seen = self._codebooks_seen = (buffer, buffer._version, bool(buffer))
        return seen[2]

    def _quantize(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config = self.config
        residual, codes, loss = latents, [], latents.new_zeros(())
        quantized = torch.zeros_like(latents)
        for level, codebook in enumerate(self.codebooks):
            with torch.no_grad():
                distances = squared_distances(residual, codebook)
                if self.training and level == config.num_codebooks - 1 and config.sinkhorn_epsilon > 0:
                    code = balanced_codes(distances, config.sinkhorn_epsilon, config.sinkhorn_iterations)
                else:
                    code = distances.argmin(dim=1)
            chosen = functional.embedding(code, codebook)  # codebook[code] adds up its gradient in any order
            loss = loss + (residual.detach() - chosen).square().sum(dim=1).mean()
            loss = loss + config.commitment_weight * (residual - chosen.detach()).square().sum(dim=1).mean()
            residual = residual - chosen.detach()
            quantized = quantized + chosen.detach()
            codes.append(code)
        return torch.stack(codes, dim=1), loss, latents + (quantized - latents).detach()

    def _standardize(self, embeddings: torch.Tensor) -> torch.Tensor:
        return (embeddings - self.mean) / self.scale

    @classmethod
    def fit(
        cls,
        embeddings: np.ndarray | torch.Tensor,
        num_codebooks: int = 3,
        codebook_size: int = 256,
        *,
        training: RQVAETraining | None = None,
        **options: Any,
    ) -> RQVAE:
        """Train on a matrix of embeddings.

        The autoencoder warms up alone; k-means of its latents gives the codebooks; then all is trained together,
        with the last level's codes assigned in balance and codes that nobody uses restarted.

        Args:
            embeddings: float [items, input_dim].
            num_codebooks: levels.
            codebook_size: codes per level.
            training: how it is trained; default: :class:`RQVAETraining` as it comes.
            options: fields of :class:`RQVAEConfig` (``hidden_sizes``, ``latent_dim``, ...), and fields of
                :class:`RQVAETraining` (``steps``, ``seed``, ``device``, ...) over those of ``training``.

        Raises:
            DataError: fewer distinct items than codes, NaN in the embeddings, negative ``steps``, or the training
                diverges.
            TypeError: an unknown option.
        """
        embeddings = check_embeddings(embeddings)
        check_enough_items(embeddings, codebook_size)
        own = {field.name: options.pop(field.name) for field in fields(RQVAETraining) if field.name in options}
        training = replace(training or RQVAETraining(), **own).resolved(len(embeddings), codebook_size)
        if unknown := options.keys() - _SIZES:
            raise TypeError(f"RQVAE.fit has no option {', '.join(sorted(unknown))}")
        if "hidden_sizes" in options:
            options["hidden_sizes"] = list(options["hidden_sizes"])
        config = RQVAEConfig(
            input_dim=embeddings.shape[1], num_codebooks=num_codebooks, codebook_size=codebook_size, **options
        )
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
            torch.manual_seed(training.seed)
            model = cls(config)
        model.fit_standardization(embeddings)
        model.to(training.device)  # type: ignore[arg-type]  # transformers hides that it is a method
        model.train()
        model._train_steps(embeddings, training)
        if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
            rate = f"{training.learning_rate:g}"
            raise DataError(f"the RQ-VAE's training has diverged: give a smaller learning_rate than {rate}.")
        return model.eval()

    def fit_standardization(self, embeddings: np.ndarray) -> None:
        """Set ``mean`` (one per dimension) and ``scale`` (one for all): unit variance on average over dimensions.

        One scale and not one per dimension: LSA's and other rotated embeddings carry meaning in their large dimensions
        and noise in the small ones, which dividing by each one's own spread would blow up.
        """
        mean = embeddings.mean(axis=0, dtype=np.float64)
        chunks = range(0, len(embeddings), CHUNK)
        variance = sum(np.square(embeddings[start : start + CHUNK] - mean).sum() for start in chunks) / embeddings.size
        self.mean.copy_(torch.from_numpy(mean).float())  # some devices have no float64
        self.scale.fill_(max(float(np.sqrt(variance)), 1e-12))

    def initialize_codebooks(self, embeddings: np.ndarray | torch.Tensor, seed: int = 0) -> None:
        """Initialize the codebooks by residual k-means of the embeddings' latents."""
        latents = self._latents(torch.as_tensor(embeddings))
        config = self.config
        with torch.no_grad():
            self.codebooks.copy_(
                residual_codebooks(latents, config.num_codebooks, config.codebook_size, iterations=10, seed=seed)
            )
        self.initialised.fill_(True)

    def fit_standardisation(self, embeddings: np.ndarray) -> None:
        """Deprecated name of :meth:`fit_standardization`."""
        _moved.old_member(self, "fit_standardisation", "fit_standardization")(embeddings)

    def initialise_codebooks(self, embeddings: np.ndarray | torch.Tensor, seed: int = 0) -> None:
        """Deprecated name of :meth:`initialize_codebooks`."""
        _moved.old_member(self, "initialise_codebooks", "initialize_codebooks")(embeddings, seed)

    @torch.no_grad()
    def restart_dead_codes(
        self, latents: torch.Tensor, usage: torch.Tensor, generator: torch.Generator | None = None
    ) -> int:
        """Move rarely used codes to residuals of random latents; return how many were moved.

        Args:
            latents: [n, latent_dim].
            usage: float [L, K], how often each code was used of late; restarted codes are set to their level's mean.
        """
        restarted, residual = 0, latents
        for level, codebook in enumerate(self.codebooks):
            dead = (usage[level] < 0.05 * usage[level].mean()).nonzero().squeeze(1)[: len(latents)]
            if len(dead):
                rows = torch.randperm(len(latents), generator=generator)[: len(dead)].to(latents.device)
                codebook[dead] = residual[rows]
                usage[level, dead] = usage[level].mean()
                restarted += len(dead)
            residual = residual - nearest_codes(residual, codebook[None])[1]
        return restarted

    def _train_steps(self, embeddings: np.ndarray, training: RQVAETraining) -> None:
        steps, seed = training.steps, training.seed
        assert steps is not None and training.batch_size is not None  # resolved
        warmup, restart_every = min(max(steps // 12, 1), steps - 1), 50
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=training.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 20) * (0.02 + 0.49 * (1 + np.cos(np.pi * step / steps)))
        )
        generator = torch.Generator().manual_seed(seed)
        usage = torch.ones(self.codebooks.shape[:2], device=self.device)
        batches = _batches(len(embeddings), training.batch_size, generator)
        with tqdm(range(steps), desc="RQ-VAE", unit="step", disable=not training.progress) as bar:
            for step in bar:
                if step == warmup:
                    self.initialize_codebooks(sample_rows(embeddings, MAX_POINTS, seed), seed)
                output = self(torch.from_numpy(embeddings[next(batches)]).to(self.device))
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
                schedule.step()
                if output.codes is not None:
                    usage *= 0.9
                    for level, code in enumerate(output.codes.T):
                        usage[level].index_add_(0, code, torch.ones_like(code, dtype=usage.dtype))
                    # Not near the end, where a restarted code would have no time to settle.
                    if step % restart_every == 0 and step < 0.9 * steps:
                        self.restart_dead_codes(output.latents.detach(), usage, generator)
                if step % 20 == 0:
                    error = output.reconstruction_loss.item() / self.config.input_dim
                    bar.set_postfix(error=f"{error:.3f}", refresh=False)

    @torch.no_grad()
    def _latents(self, embeddings: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.project(chunk.to(self.device)) for chunk in embeddings.split(CHUNK)])

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.encoder(self._standardize(embeddings))

    def reconstruct(self, points: torch.Tensor) -> torch.Tensor:
        return self.decoder(points) * self.scale + self.mean


class _Linear(nn.Linear):
    """Linear layer that computes in full blocks of columns, see :mod:`tiger.quantizers.kmeans`."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        columns, rows = -self.in_features % BLOCK, -self.out_features % BLOCK
        if not columns and not rows:
            return super().forward(inputs)
        weight = functional.pad(self.weight, (0, columns, 0, rows))
        outputs = functional.linear(functional.pad(inputs, (0, columns)), weight, functional.pad(self.bias, (0, rows)))
        return outputs[..., : self.out_features]


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [_Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _batches(num_items: int, batch_size: int, generator: torch.Generator):
    """Yield row numbers of batches without end; each pass over the rows is in a new random order."""
    while True:
        for rows in torch.randperm(num_items, generator=generator).split(batch_size):
            if len(rows) == min(batch_size, num_items):  # a scrap of a batch gives a poor balanced assignment
                yield rows.numpy()


register(RQVAEConfig, RQVAE)
