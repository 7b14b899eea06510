"""Beam search for any number of users: batches of one length, a batch a core, a bar that tells how far it is.

Items that training saw and items that it never saw may be searched for apart: each kind gets its share of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import T5ForConditionalGeneration

from tiger.data.sequences import Sequences
from tiger.retriever.beam_search import beam_search
from tiger.retriever.data_collator import EvaluationCollator
from tiger.retriever.dataset import EvaluationExamples
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie


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


@dataclass(frozen=True)
class CataloguePart:
    """Items among which beam search chooses.

    Args:
        chosen: bool [n]; None: all.
        scored_levels: levels that the model knows something of; None: all.
    """

    chosen: np.ndarray | None = None
    scored_levels: int | None = None

    @property
    def rows(self) -> np.ndarray | None:
        return None if self.chosen is None else np.flatnonzero(self.chosen)


def shared_places(
    seen: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray], k: int, places: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best of two lists, so many places for each, in the order of their scores.

    Args:
        seen, unseen: rows int [users, m], best first, -1 where none, and scores [users, m] or, the last one ordering
            the rest, [users, m, 2].
        k: length of the answer.
        places: how many of them go to ``unseen``; where one list is too short, the other fills in.

    Returns:
        Rows and scores of ``k`` places, -1 and ``-inf`` where both lists have ended.
    """
    found, found_unseen = ((rows >= 0).sum(axis=1) for rows, _ in (seen, unseen))
    taken_unseen = np.minimum(found_unseen, np.maximum(places, k - found))
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
    part: CataloguePart = CataloguePart(),
) -> tuple[np.ndarray, np.ndarray]:
    """What the T5 proposes.

    Args:
        trie: of the tokenizer's tokens, on the model's device.
        histories: rows of the catalogue.
        k: items a user, at most as many as beams.
        max_history: items of a history that the model reads.
        part: of the catalogue, among which to choose.

    Returns:
        Rows, int64 [users, k], -1 where there are fewer, and log-probabilities, float32 [users, k], ``-inf`` there.
    """
    device = model.device
    examples = EvaluationExamples(histories, np.zeros(len(histories), dtype=np.int64), max_history)
    collate = EvaluationCollator(tokenizer)
    generator = None if options.seed is None else torch.Generator(device).manual_seed(options.seed)
    answers = np.full((len(examples), k), -1, dtype=np.int64)
    scores = np.full((len(examples), k), -np.inf, dtype=np.float32)
    # Users with histories of one length share a batch, so that nothing is padded.
    order = examples.by_length()
    size = options.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    among = None if part.chosen is None else torch.from_numpy(part.chosen).to(device)

    def decode(users: np.ndarray) -> int:
        batch = collate([examples[user] for user in users])
        beams = beam_search(
            model,
            trie,
            batch["input_ids"].to(device),
            num_beams=options.num_beams,
            k=k,
            excluded=batch["seen"].to(device) if options.exclude_history else None,
            temperature=options.temperature,
            generator=generator,
            scored_levels=part.scored_levels,
            among=among,
        )
        answers[users], scores[users] = beams.rows.cpu().numpy(), beams.scores.cpu().numpy()
        return len(users)

    # Random numbers are drawn batch after batch, or a seed would not say what comes.
    workers = _each_core_a_batch if device.type == "cpu" and options.temperature is None else map
    with tqdm(total=len(order), desc="recommending", unit="user", disable=not options.progress) as bar:
        for count in workers(decode, batches):
            bar.update(count)
    return answers, scores


def _each_core_a_batch(decode: Callable[[np.ndarray], int], batches: list[np.ndarray]) -> Iterator[int]:
    """``map``, with as many batches at a time as torch has threads, one thread each.

    The products of a small model are too short to share: two threads on one batch take longer than one.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(batches) == 1:
        yield from map(decode, batches)
        return
    # Autocast belongs to a thread, and these are new ones.
    autocast = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}

    def run(users: np.ndarray) -> int:
        with torch.autocast("cpu", **autocast):
            return decode(users)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(run, batches)
    finally:
        torch.set_num_threads(threads)
