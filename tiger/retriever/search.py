"""Beam search for any number of users: batches of equal history lengths, one batch per core, a progress bar.

On an accelerator batches are made ahead by a thread, and an answer is read while the next one is computed.

Items that were in training and items added since can be searched separately, with a quota of each in the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import T5ForConditionalGeneration

from tiger._moved import old_names
from tiger.data.sequences import Sequences
from tiger.retriever.allowed_items import AllowedItems
from tiger.retriever.beam_search import Beams, beam_search
from tiger.retriever.config import retriever_config
from tiger.retriever.data_collator import EvaluationCollator
from tiger.retriever.dataset import EvaluationExamples
from tiger.retriever.memory import ItemMemory
from tiger.retriever.prior import MemoryPrior
from tiger.retriever.search_graphs import graphs_of
from tiger.retriever.search_options import SearchOptions
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils import devices
from tiger.utils.devices import HostCopy

# A memory's masses of the histories that are decoded at one time: 256 MiB, and as much again for their logarithms.
_MASSES_AT_ONCE = 1 << 26
_OVERLAPPED = 3  # batches of an accelerator whose masses are held: one is searched, two are collated


@dataclass(frozen=True)
class CatalogPart:
    """The items that a search may return.

    Args:
        filters: one filter each, prepared for the trie; none: all items.
        scored_levels: number of levels that the model scores, see :func:`beam_search`; None: all.
        of: int [users], which of the filters each history has; None: all have the first.
    """

    filters: Sequence[AllowedItems] = ()
    scored_levels: int | None = None
    of: np.ndarray | None = None

    def allowed(self, trie: SemanticIdTrie, users: np.ndarray) -> AllowedItems | None:
        """Items that may answer the histories with these numbers, int [B]; None: all."""
        if self.of is not None:
            used, places = np.unique(self.of[users], return_inverse=True)
            if len(used) > 1:
                of = torch.from_numpy(places.astype(np.int64)).to(trie.rows.device)
                return AllowedItems.together([self.filters[number] for number in used], of)
            return self.filters[used[0]]
        return self.filters[0] if self.filters else None


def merge_with_quota(
    seen: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray], k: int, quota: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge two ranked lists per user by score, with a fixed number of places for the second.

    Args:
        seen, unseen: rows int [users, m], best first, -1 where there are fewer, and their scores, [users, m] or
            [users, m, 2]; the lists are merged by the last one.
        k: length of the result.
        quota: how many of the ``k`` places go to ``unseen``; where one list is too short, the other takes its places.

    Returns:
        Rows and scores of ``k`` places, -1 and ``-inf`` after the end of both lists.
    """
    found, found_unseen = ((rows >= 0).sum(axis=1) for rows, _ in (seen, unseen))
    taken_unseen = np.minimum(found_unseen, np.maximum(quota, k - found))
    taken = np.minimum(found, k - taken_unseen)
    keep = [np.arange(part[0].shape[1]) < n[:, None] for part, n in ((seen, taken), (unseen, taken_unseen))]
    rows = np.concatenate([np.where(kept, part[0], -1) for kept, part in zip(keep, (seen, unseen))], axis=1)
    scores = np.concatenate([seen[1], unseen[1]], axis=1)
    scores[rows < 0] = -np.inf
    order = np.argsort(-(scores if scores.ndim == 2 else scores[..., -1]), axis=1, kind="stable")[:, :k]
    users = np.arange(len(rows))[:, None]
    return rows[users, order], scores[users, order]


def beams_of_users(
    model: T5ForConditionalGeneration,
    tokenizer: SemanticIdTokenizer,
    trie: SemanticIdTrie,
    histories: Sequences,
    k: int,
    options: SearchOptions,
    max_history: int,
    part: CatalogPart = CatalogPart(),
    memory: ItemMemory | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Search the next items of every user.

    Args:
        trie: of the tokenizer's tokens, on the model's device.
        histories: rows of the catalog, oldest first. Their ``user_ids`` are read by a model with user tokens.
        k: items per user, at most ``options.num_beams``.
        max_history: number of last items of a history that the model reads.
        part: the items that may be returned.
        memory: of the catalog's items; None: the model alone.

    Returns:
        Rows, int64 [users, k], -1 where there are fewer, and log-probabilities, float32 [users, k], ``-inf`` there;
        with a memory, scores that are mixed of both.
    """
    device = model.device
    nothing = np.zeros(len(histories), dtype=np.int64)
    examples = EvaluationExamples(histories, nothing, max_history, retriever_config(model).user_tokens)
    search = _BatchSearch(model, trie, examples, EvaluationCollator(tokenizer), k, options, part, memory)
    answers = np.full((len(examples), k), -1, dtype=np.int64)
    scores = np.full((len(examples), k), -np.inf, dtype=np.float32)
    # Histories of equal length share a batch: little padding.
    order = examples.by_length()
    size = options.batch_size or devices.default_batch_size(device, options.num_beams)
    if memory is not None:
        at_once = torch.get_num_threads() if devices.is_host(device) else _OVERLAPPED
        size = min(size, max(1, _MASSES_AT_ONCE // (at_once * max(len(memory), len(memory.tables)))))
    batches = [order[start : start + size] for start in range(0, len(order), size)]

    def keep(users: np.ndarray, found: HostCopy) -> int:
        answers[users], scores[users] = (part.numpy() for part in found.wait())
        return len(users)

    def decode(users: np.ndarray) -> int:
        return keep(users, search.run(users, search.collate(users)))

    with (
        devices.products_in(device, options.bf16),
        tqdm(total=len(order), desc="recommending", unit="user", disable=not options.progress) as bar,
    ):
        if not devices.is_host(device):
            counts = _overlapped(batches, search, keep)
        # Sampling runs batch after batch: only then does a seed determine the random numbers.
        elif options.temperature is None:
            counts = _one_batch_per_core(decode, batches)
        else:
            counts = map(decode, batches)
        for count in counts:
            bar.update(count)
    return answers, scores


@dataclass
class _BatchSearch:
    """The search of one batch, in two parts: what the host does before, and what the device does.

    Args:
        model, trie, k, options, part, memory: see :func:`beams_of_users`.
        examples: of all users.
        collator: of the model's tokens.
    """

    model: T5ForConditionalGeneration
    trie: SemanticIdTrie
    examples: EvaluationExamples
    collator: EvaluationCollator
    k: int
    options: SearchOptions
    part: CatalogPart
    memory: ItemMemory | None

    def __post_init__(self) -> None:
        device, options = self.model.device, self.options
        self._generator = None if options.seed is None else torch.Generator(device).manual_seed(options.seed)
        # Graphs are of the plain search: neither sampled, nor of a part of the catalog, nor with a memory.
        is_plain = options.temperature is None and not self.part.filters and self.part.scored_levels is None
        self._graphs = graphs_of(self.model) if is_plain and self.memory is None else None
        self._floors = None if self.memory is None else torch.from_numpy(self.memory.t5_floors).to(device)

    def collate(self, users: np.ndarray) -> dict[str, torch.Tensor]:
        """The batch of these users, in the host's memory."""
        batch = self.collator([self.examples[user] for user in users])
        wanted = {name: batch[name] for name in ("input_ids", "seen")}
        if self.memory is not None:
            wanted["mass"] = torch.from_numpy(self.memory.mass(self.examples.histories.select(users)))
        return {name: devices.pinned(part, self.model.device) for name, part in wanted.items()}

    def run(self, users: np.ndarray, batch: dict[str, torch.Tensor]) -> HostCopy:
        """Rows and scores of the batch of these users, on their way."""
        options = self.options
        tokens = devices.sent(batch["input_ids"], self.model.device)
        excluded = devices.sent(batch["seen"], self.model.device) if options.exclude_history else None
        prior: MemoryPrior | None = None
        if self.memory is not None and self._floors is not None:
            mass = devices.sent(batch["mass"], self.model.device)
            prior = MemoryPrior(self.trie, mass, self._floors, self.memory.weights.t5_weight)
        beams: Beams | None = None
        if self._graphs is not None:
            beams = self._graphs.search(self.trie, tokens, options.num_beams, self.k, excluded)
        if beams is None:
            beams = beam_search(
                self.model,
                self.trie,
                tokens,
                num_beams=options.num_beams,
                k=self.k,
                excluded=excluded,
                temperature=options.temperature,
                generator=self._generator,
                scored_levels=self.part.scored_levels,
                allowed_items=self.part.allowed(self.trie, users),
                prior=prior,
            )
        return HostCopy(beams.rows, beams.scores)


def _overlapped(
    batches: list[np.ndarray], search: _BatchSearch, keep: Callable[[np.ndarray, HostCopy], int]
) -> Iterator[int]:
    """Run batches in their order; the next two are collated, and the last answer is read, while one is searched."""
    if len(batches) == 1:  # a single request: a thread would cost more than it saves
        yield keep(batches[0], search.run(batches[0], search.collate(batches[0])))
        return
    with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
        coming = deque(pool.submit(search.collate, users) for users in batches[:2])
        running: tuple[np.ndarray, HostCopy] | None = None
        for at, users in enumerate(batches):
            batch = coming.popleft().result()
            if at + 2 < len(batches):
                coming.append(pool.submit(search.collate, batches[at + 2]))
            found = search.run(users, batch)
            if running is not None:
                yield keep(*running)
            running = users, found
        if running is not None:
            yield keep(*running)


def _one_batch_per_core(decode: Callable[[np.ndarray], int], batches: list[np.ndarray]) -> Iterator[int]:
    """``map`` with as many batches at a time as torch has threads, one thread each.

    The matrix products of a small model are too short to parallelize: two threads on one batch take longer than one.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(batches) == 1:
        yield from map(decode, batches)
        return
    # Autocast is a setting of the thread: pass it on to the new ones.
    dtype, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def run(users: np.ndarray) -> int:
        with torch.autocast("cpu", dtype, enabled):
            return decode(users)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(run, batches)
    finally:
        torch.set_num_threads(threads)


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
