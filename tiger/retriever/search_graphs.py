"""Searches as CUDA graphs: recorded once for a few shapes of batch, then replayed in place of a thousand launches.

A graph replays fixed work on fixed addresses. So a batch is copied into the smallest *bucket* that holds it, a number
of users and a length of histories, and the trie lies in arrays with room for items that are added
(:class:`tiger.semantic_ids.static_trie.StaticTrie`). After :meth:`SearchGraphs.record_all` nothing more is recorded:
what fits into no bucket is searched without a graph.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from transformers import T5ForConditionalGeneration

from tiger.retriever.beam_search import Beams, beam_search
from tiger.retriever.config import history_item_length, item_vocabulary, pad_token, reads_users
from tiger.retriever.inference_model import packed
from tiger.semantic_ids.static_trie import StaticTrie
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils import devices

# A way to record: runs a function, and gives its answer and a function that does the same work again on the same
# tensors.
Recorder = Callable[[Callable[[], Beams]], tuple[Beams, Callable[[], None]]]

_used: weakref.WeakKeyDictionary[T5ForConditionalGeneration, SearchGraphs] = weakref.WeakKeyDictionary()


def cuda_recorder(device: torch.device) -> Recorder:
    """Record CUDA graphs, which share one pool of memory, since no two of them ever run at a time."""
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream(device)

    def record(run: Callable[[], Beams]) -> tuple[Beams, Callable[[], None]]:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries allocate what they keep, position biases are computed
                run()
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        # Another thread may answer with the model of before while this one is recorded.
        with (
            torch.cuda.device(device),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            answer = run()
        return answer, graph.replay

    return record


def repeating_recorder() -> Recorder:
    """A stand-in without graphs: each replay calls the function again and writes over its first answer.

    It works on the same buffers as a graph would, so tests on a CPU see what is not copied into them.
    """

    def record(run: Callable[[], Beams]) -> tuple[Beams, Callable[[], None]]:
        answer = run()

        def replay() -> None:
            again = run()
            answer.rows.copy_(again.rows)
            answer.scores.copy_(again.scores)

        return answer, replay

    return record


@dataclass(frozen=True)
class GraphShapes:
    """Shapes of batches that are recorded.

    Args:
        users: numbers of histories.
        items: numbers of items in the longest history.
        num_beams: of the search.
        excluded: most rows that are left out for a user.
    """

    users: tuple[int, ...] = (1, 4, 16, 64, 256)
    items: tuple[int, ...] = (5, 10, 20)
    num_beams: int = 50
    excluded: int = 64


@dataclass
class _Recorded:
    tokens: torch.Tensor
    excluded: torch.Tensor
    answer: Beams
    replay: Callable[[], None]


class SearchGraphs:
    """Recorded searches of one model.

    Args:
        model: in use as it is now; after a change of its weights, no graph answers.
        trie: of its items, on the model's device.
        shapes: what is recorded.
        bf16: matrix products in bfloat16, as :class:`tiger.SearchOptions` has it.
        recorder: of a way to record; default: CUDA graphs.

    Attributes:
        trie: the one that the graphs read, with room for more items.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        trie: SemanticIdTrie,
        shapes: GraphShapes = GraphShapes(),
        bf16: bool | None = None,
        recorder: Recorder | None = None,
    ):
        self.shapes = shapes
        self._model, self._device = weakref.ref(model), model.device
        self._record = cuda_recorder(self._device) if recorder is None else recorder
        with torch.inference_mode(), devices.products_in(self._device, bf16):
            self._dtype = devices.autocast_dtype(self._device) or torch.float32
            self._weights = packed(model, self._dtype)
            self.trie = StaticTrie(trie, max_width=item_vocabulary(model))
        self._loaded: SemanticIdTrie | None = trie
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._recorded)

    def record_all(self) -> None:
        """Record every shape, the largest first, so that the others find its memory."""
        for users in sorted(self.shapes.users, reverse=True):
            for items in sorted(self.shapes.items, reverse=True):
                with self._lock:
                    self._recorded[users, self._length(items)] = self._recorded_for(users, self._length(items))

    @torch.inference_mode()
    def search(
        self, trie: SemanticIdTrie, histories: torch.Tensor, num_beams: int, k: int, excluded: torch.Tensor | None
    ) -> Beams | None:
        """Replay the search of a batch; arguments and answer as of :func:`beam_search`.

        Returns:
            Tensors that nothing overwrites; None: no graph is of this shape, or the trie has outgrown its room, or
            weights or their dtype are others.
        """
        model = self._model()
        (users, length), width = histories.shape, 0 if excluded is None else excluded.shape[1]
        fitting = [shape for shape in self._recorded if users <= shape[0] and length <= shape[1]]
        if model is None or not fitting or width > self.shapes.excluded or num_beams != self.shapes.num_beams:
            return None
        dtype = devices.autocast_dtype(self._device) or torch.float32
        if dtype != self._dtype or packed(model, dtype) is not self._weights:
            return None
        with self._lock:
            if not self._holds(trie):
                return None
            recorded = self._recorded[min(fitting)]
            recorded.tokens.fill_(pad_token(model))
            recorded.tokens[:users, :length].copy_(histories)
            recorded.excluded.fill_(-1)
            if excluded is not None:
                recorded.excluded[:users, :width].copy_(excluded)
            recorded.replay()
            rows, scores = recorded.answer.rows[:users, :k].clone(), recorded.answer.scores[:users, :k].clone()
        return Beams(rows, scores)

    def _holds(self, trie: SemanticIdTrie) -> bool:
        """Whether the recorded searches are of this trie now; it is written over that of before."""
        if trie is not self._loaded:
            if not self.trie.overwrite(trie):
                return False
            self._loaded = trie
        return True

    def _length(self, items: int) -> int:
        """Tokens of a history of so many items."""
        model = self._owner()
        return items * history_item_length(model, self.trie.depth) + int(reads_users(model))

    def _owner(self) -> T5ForConditionalGeneration:
        model = self._model()  # weak, or the graphs that a model is the key of would keep it alive
        assert model is not None  # whoever records or searches holds it
        return model

    @torch.inference_mode()
    def _recorded_for(self, users: int, length: int) -> _Recorded:
        tokens = torch.full((users, length), pad_token(self._owner()), device=self._device)
        excluded = torch.full((users, self.shapes.excluded), -1, device=self._device)

        def run() -> Beams:
            with devices.products_in(self._device, self._dtype != torch.float32):
                return beam_search(self._owner(), self.trie, tokens, self.shapes.num_beams, excluded=excluded)

        return _Recorded(tokens, excluded, *self._record(run))


def use_graphs(model: T5ForConditionalGeneration, graphs: SearchGraphs | None) -> None:
    """Let every search with this model ask these graphs first; None: no longer."""
    if graphs is None:
        _used.pop(model, None)
    else:
        _used[model] = graphs


def graphs_of(model: T5ForConditionalGeneration) -> SearchGraphs | None:
    """The graphs that searches with this model use."""
    return _used.get(model)


def bucket_sizes(largest: int, ratio: int = 4) -> tuple[int, ...]:
    """Numbers of users from 1 to ``largest``, each ``ratio`` times the one before."""
    sizes: Iterable[int] = (ratio**power for power in range(32))
    return tuple(size for size in sizes if size < largest) + (largest,)
