"""CUDA graphs of a service: recorded when a model is loaded, then left as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search_graphs import GraphShapes, Recorder, SearchGraphs, bucket_sizes, use_graphs
from tiger.retriever.search_options import option_default
from tiger.utils.errors import DataError

logger = logging.getLogger("tiger.serving")


def graph_settings(
    device: torch.device, wanted: bool | None, max_batch: int, bf16: bool | None
) -> Callable[[TigerRecommender], object] | None:
    """Return what records graphs of a recommender before it answers; None: there are to be none.

    Args:
        wanted: whether to record graphs; None: on an NVIDIA GPU.
        max_batch: histories per batch.
        bf16: precision of the search.

    Raises:
        DataError: graphs are wanted on another device.
    """
    has_graphs = device.type == "cuda" and torch.version.hip is None
    if wanted and not has_graphs:
        raise DataError(f"cuda_graphs needs an NVIDIA GPU, the model is on {device}: leave it out.")
    if wanted is False or not has_graphs:
        return None
    return lambda recommender: record_graphs(recommender, max_batch, bf16)


def record_graphs(
    recommender: TigerRecommender, max_batch: int, bf16: bool | None, recorder: Recorder | None = None
) -> SearchGraphs | None:
    """Record searches with the default number of beams; None, and a warning, if the device refuses.

    Args:
        recorder: default: CUDA graphs.
    """
    longest = recommender.max_history
    items = tuple(sorted({max(1, longest // 4), max(1, longest // 2), longest}))
    shapes = GraphShapes(bucket_sizes(max_batch), items, option_default("num_beams"))
    try:
        graphs = SearchGraphs(recommender.model, recommender.trie, shapes, bf16, recorder)
        graphs.record_all()
    except RuntimeError as error:  # out of memory, an operator that can't be recorded: the eager search answers
        logger.warning("no CUDA graphs, searches run without: %s", str(error).split("\n")[0])
        return None
    use_graphs(recommender.model, graphs)
    return graphs
