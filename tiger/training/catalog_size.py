"""Sizes of codes by the size of a catalog, for recipes that leave them open."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CODES = 256
# Up to here two levels stay: 65,536 tuples are three for each item, and the published sets (up to 18,357 items) keep
# the codes that their results were measured with.
TWO_LEVELS = MAX_CODES**2 // 3
TUPLES = 16  # for each item beyond that, so that few share one
MOST_SHARED = 0.05  # share of the items beyond the first of their tuple: with more of them there are more levels
# Prefixes are more than one token an item, whose embeddings and their moments in training take 4 kB at 256 dimensions.
MOST_PREFIXES = 300_000
# A softmax over all items multiplies each target by their table: at 50,000 items and 256 dimensions a batch of 512
# targets takes 40 GFLOP and some hundred MB more.
MOST_SUMMED = 50_000
_MAX_LEVELS = 16


@dataclass(frozen=True)
class CatalogSize:
    """Codes of a catalog.

    Args:
        num_codebooks: levels of codes.
        codebook_size: codes per level, so also the most children of a prefix above the last level.
        tokens: ``prefixes``, or ``codes`` where there would be too many.
    """

    num_codebooks: int
    codebook_size: int
    tokens: str

    @classmethod
    def of(cls, num_items: int, codebook_size: int | None = None) -> CatalogSize:
        """The sizes that the number of items asks for; ``codebook_size`` where that is given."""
        codes = codes_per_level(num_items) if codebook_size is None else codebook_size
        levels = 2
        while codes > 1 and levels < _MAX_LEVELS and codes**levels < _tuples(num_items):
            levels += 1
        return cls(levels, codes, "prefixes" if num_items <= MOST_PREFIXES else "codes")


def tokens_by_size(wanted: str, num_items: int) -> str:
    """The setting ``tokens`` where ``wanted`` is ``auto``, else ``wanted``."""
    return CatalogSize.of(num_items).tokens if wanted == "auto" else wanted


def softmax_by_size(wanted: str | None, tokens: str, num_items: int) -> str | None:
    """The setting ``output_softmax`` where ``wanted`` is ``auto``, else ``wanted``; None: its tokens have one."""
    if wanted != "auto":
        return wanted
    by_size = "items" if num_items <= MOST_SUMMED else "children"
    return by_size if tokens == "prefixes" else None


def _tuples(num_items: int) -> int:
    """Tuples of codes that are wanted."""
    return TUPLES * num_items if num_items > TWO_LEVELS else 0


def codes_per_level(num_items: int) -> int:
    """256, or the largest power of two that leaves four items per code, or 1."""
    return min(MAX_CODES, 1 << max(0, (num_items // 4).bit_length() - 1))
