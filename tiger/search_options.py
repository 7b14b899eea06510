"""How beam search is run, whoever calls it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchOptions:
    """
    Args:
        num_beams: candidates kept while decoding; more finds better items and costs more.
        exclude_history: leave out items of the history.
        temperature: None: the most probable items; a number: a sample without replacement, more varied the higher.
        seed: of sampling.
        batch_size: users at a time.
        progress: show a bar.
    """

    num_beams: int = 50
    exclude_history: bool = True
    temperature: float | None = None
    seed: int | None = None
    batch_size: int = 64
    progress: bool = False
