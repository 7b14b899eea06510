"""Quality of codes: reconstruction error, use of the codebooks and collisions, as numbers and as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiger._moved import old_names
from tiger.utils.errors import DataError
from tiger.utils.json_files import read_json
from tiger.utils.schema import check_fields, dict_of, optional, text

REPORT = "report.json"


def quantization_report(
    codes: np.ndarray, embeddings: np.ndarray, reconstruction: np.ndarray, codebook_size: int
) -> dict[str, float | int | list]:
    """Measure a quantization.

    Args:
        codes: int [n, L], without the collision token.
        embeddings: float [n, d], what was quantized.
        reconstruction: float [n, d], what the codes stand for.
        codebook_size: codes per level.

    Returns:
        A dict: ``mse``, mean squared error a number; ``relative_error``, ``||x - x̂||² / ||x - mean||²``, 1 for a
        quantizer that knows only the mean; ``codes_used`` and ``codes_used_share``, one per level; ``perplexity``, exp
        of the entropy of the codes, per level, ``codebook_size`` when all are used alike; ``items_per_tuple_mean`` and
        ``_max``; ``collision_share``, the share of items that share all their codes with another; ``num_items``.

    Raises:
        DataError: the shapes don't fit.
    """
    if embeddings.shape != reconstruction.shape or codes.ndim != 2 or len(codes) != len(embeddings) or not len(codes):
        raise DataError(
            f"codes {codes.shape}, embeddings {embeddings.shape} and reconstruction {reconstruction.shape} don't fit."
        )
    counts = _level_counts(codes, codebook_size)
    shares = counts / len(codes)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    per_tuple = np.unique(codes, axis=0, return_counts=True)[1]
    error = float(np.square(embeddings - reconstruction, dtype=np.float64).sum())
    spread = float(np.square(embeddings - embeddings.mean(axis=0), dtype=np.float64).sum())
    used = (counts > 0).sum(axis=1)
    return {
        "num_items": len(codes),
        "mse": error / embeddings.size,
        "relative_error": error / spread if spread else 0.0,
        "codes_used": used.tolist(),
        "codes_used_share": (used / codebook_size).tolist(),
        "perplexity": np.exp(entropy).tolist(),
        "items_per_tuple_mean": float(per_tuple.mean()),
        "items_per_tuple_max": int(per_tuple.max()),
        "collision_share": float(per_tuple[per_tuple > 1].sum() / len(codes)),
    }


def plot_code_usage(codes: np.ndarray, codebook_size: int, path: str | os.PathLike) -> None:
    """Draw to a PNG how evenly each level's codes are used, and how many items share all their codes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = _level_counts(codes, codebook_size)
    sizes = np.unique(codes, axis=0, return_counts=True)[1]
    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    usage, collisions = figure.subplots(1, 2)

    for level, count in enumerate(counts):
        used = int((count > 0).sum())
        label = f"level {level + 1}: {used} of {codebook_size} used"
        usage.plot(np.arange(1, codebook_size + 1), np.sort(count)[::-1], label=label, linewidth=2)
    even = len(codes) / codebook_size
    usage.axhline(even, color="0.6", linestyle="--", linewidth=1, label=f"all alike: {even:.3g}")
    usage.set(xlabel="codes, most used first", ylabel="items", xlim=(1, codebook_size), title="Use of the codes")
    usage.set_ylim(bottom=0)
    usage.legend(frameon=False)

    last = min(int(sizes.max()), 8)
    items = np.array([sizes[sizes == size].sum() for size in range(1, last)] + [sizes[sizes >= last].sum()])
    bars = collisions.bar(range(1, last + 1), items, color=["#4c9f70"] + ["#c8553d"] * (last - 1), width=0.7)
    collisions.margins(y=0.1)
    collisions.bar_label(bars, [f"{count / len(codes):.1%}" for count in items], padding=2)
    names = [str(size) for size in range(1, last)] + [f"{last}+" if sizes.max() > last else str(last)]
    collisions.set_xticks(range(1, last + 1), names)
    shared = sizes[sizes > 1].sum() / len(codes)
    title = f"{shared:.1%} of {len(codes):,} items share all their codes"
    collisions.set(xlabel="items with the same codes", ylabel="items", title=title)
    for axes in (usage, collisions):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _level_counts(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    return np.stack([np.bincount(level, minlength=codebook_size) for level in codes.T])


def template_of(folder: str | os.PathLike) -> str | None:
    """Return the columns that the item texts were made from, from the report beside a tokenizer; None: all."""
    report = Path(folder) / REPORT
    if not report.exists():
        return None
    saved = read_json(report)
    check_fields(saved, {}, report, template=optional(text(10_000)))
    return saved.get("template")


def settings_of(folder: str | os.PathLike) -> dict:
    """Return the settings that a tokenizer was fitted with, from the report beside it; empty: it is older."""
    report = Path(folder) / REPORT
    saved = read_json(report) if report.exists() else {}
    check_fields(saved, {}, report, settings=dict_of(lambda value: True, 100))
    return saved.get("settings", {})


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
