"""The two-stage ranker: candidates from several sources, and trees that order them.

Gradient-boosted trees (LightGBM, LambdaRank: Burges, MSR-TR-2010-82) over what
:mod:`tiger.rankers.two_stage.candidates` says of each candidate, the T5's log-probability among it. They are learned
from targets that neither the log's counts nor the T5 have seen: the validation items. Choices, the number of trees
among them, are made on a part of the users kept apart.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import save

from tiger._moved import old_arguments
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.evaluation.metrics import next_item_metrics
from tiger.rankers.base import Ranker, best_first
from tiger.rankers.two_stage.candidates import Candidates, Proposals
from tiger.rankers.two_stage.choice import BY_HYBRID, BY_T5, BY_TREES, OrderChoice
from tiger.rankers.two_stage.examples import NothingToLearn as NothingToLearn  # also known by this module
from tiger.rankers.two_stage.examples import RankingExamples as _Examples
from tiger.rankers.two_stage.kept_candidates import kept
from tiger.rankers.two_stage.options import PATIENCE, TwoStageOptions
from tiger.rankers.two_stage.saved import (
    COUNTS,
    HYBRID_COLUMN,
    SETTINGS,
    TREES,
    VECTORS,
    read_settings,
    read_trees,
    read_vectors,
)
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

if TYPE_CHECKING:
    import lightgbm

FORMAT = 6
OLD_FORMATS = (4, 5)  # before there was dropout of times; before there could be no trees
STAGES = ("log", "text", "item", "codes", "time", "t5")


class TwoStageRanker(Ranker):
    """Ranker over the T5's beams and candidates from the log and the texts.

    Made by :meth:`fit`.

    Args:
        candidates: proposes, and describes what is proposed.
        trees: give a candidate's score from its columns; the mean of several is taken. None: the score is the one
            column itself.
        columns: which columns the trees read.
        fingerprint: of the semantic IDs that the columns were made with.
        record: what is known of the fit.
        assume_last_day: whether a history without times counts as one that ends on the log's last day, because the
            trees have not learned from such histories.
        learned_with_memory: whether the T5's scores that the trees learned from were mixed with a memory's; None: that
            is not known.
    """

    kind = "two-stage"
    reads_times = True
    reads_items = True
    proposes_items = True

    def __init__(
        self,
        candidates: Candidates,
        trees: list[lightgbm.Booster],
        columns: list[str],
        fingerprint: str,
        record: dict | None = None,
        assume_last_day: bool = False,
        learned_with_memory: bool | None = None,
    ):
        unknown = sorted(set(columns) - set(candidates.names))
        if unknown:
            raise DataError(f"the trees read features that the candidates lack: {', '.join(unknown)}.")
        self.candidates, self.trees, self.columns, self._fingerprint = candidates, trees, columns, fingerprint
        self.record, self.assume_last_day = record or {}, assume_last_day
        self._with_memory = learned_with_memory

    @classmethod
    @old_arguments(committee="num_seeds")
    def fit(
        cls,
        candidates: Candidates,
        proposals: Proposals,
        targets: np.ndarray,
        fingerprint: str = "",
        options: TwoStageOptions | None = None,
        **fields: Any,
    ) -> TwoStageRanker:
        """Learn the order from the next items of users.

        Args:
            candidates: fitted on a log that lacks the targets.
            proposals: its proposals for n histories that end before the target, with the beams of a T5 that has not
                seen the targets either.
            targets: int [n], the next items.
            fingerprint: of the semantic IDs.
            options: how the trees are fitted.
            fields: fields of :class:`TwoStageOptions`, over those of ``options``.

        Raises:
            NothingToLearn: of users to learn from, or of those held out, none has the target among the candidates.
        """
        import lightgbm

        options = replace(options or TwoStageOptions(), **fields)
        columns = [name for name in candidates.names if name.split(":")[0] not in options.without]
        if "t5" in options.without:
            proposals = candidates.without_beams(proposals)
        held_out = options.drawn(len(targets))
        no_times = np.random.default_rng([options.seed, 1]).random(len(targets)) < options.time_dropout
        examples = _Examples(proposals, targets, no_times, candidates.names, columns)
        learned, chosen, all_users = map(examples.lists, (~held_out, held_out, held_out | ~held_out))
        halves, whole = [], []
        for number in range(options.num_seeds):
            settings = options.lightgbm(number)
            stop = lightgbm.early_stopping(PATIENCE, verbose=False)
            half = lightgbm.train(settings, learned, options.max_trees, valid_sets=[chosen], callbacks=[stop])
            halves.append(half)
            whole.append(lightgbm.train(settings, all_users, half.best_iteration))
        kept_apart = Proposals(proposals.rows[held_out], proposals.columns[held_out])
        record, inputs = dict[str, Any](), {"": kept_apart}
        if options.time_dropout:
            inputs[", no timestamps"] = candidates.without_times(kept_apart)
        for suffix, given in inputs.items():
            answers = cls(candidates, halves, columns, fingerprint).best(given, 10)[0]
            for name, value in next_item_metrics(answers, targets[held_out]).items():
                record[f"held out {name}{suffix}"] = round(float(value), 5)
        if options.keep != BY_TREES:
            record |= _choice(candidates, halves, columns, kept_apart, targets[held_out]).record
        record |= {
            "users held out": int(held_out.sum()),
            "trees": [half.best_iteration for half in halves],
            "recall of the candidates": round(float((proposals.rows == targets[:, None]).any(axis=1).mean()), 5),
            "without": list(options.without),
            "time_dropout": options.time_dropout,
        }
        if record.get("order") == BY_HYBRID:
            whole, columns = [], [HYBRID_COLUMN]
        return cls(candidates, whole, columns, fingerprint, record, not options.time_dropout, options.with_memory)

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def learned_from(self) -> str:
        """``valid``: the trees are fitted to validation's targets."""
        return "valid"

    @property
    def fingerprint(self) -> str | None:
        return self._fingerprint

    @property
    def reads_t5(self) -> bool:
        """Whether the T5's beams and scores count."""
        return any(name.startswith("t5") for name in self.columns)

    @property
    def learned_with_memory(self) -> bool | None:  # type: ignore[override]  # which depends on how it was fitted
        """Whether the scores that the trees learned from were of searches with a memory; None: they read none, or
        that was not recorded."""
        return self._with_memory if self.reads_t5 else None

    def order(
        self,
        histories: Sequences,
        beams: np.ndarray,
        scores: np.ndarray,
        k: int,
        exclude_history: bool = True,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ``k`` best of the beams and of what the log and the texts propose; see
        :meth:`tiger.rankers.base.Ranker.order`."""
        rows = np.full((len(histories), k), -1, dtype=np.int64)
        t5, trees = (np.full((len(histories), k), -np.inf, dtype=np.float32) for _ in range(2))
        if not self.reads_t5 and k <= self.candidates.num_proposed:  # else the beams fill up what is too few
            beams, scores = beams[:, :0], scores[:, :0]
        without = None
        if allowed is not None:
            gone = np.ones(len(self), dtype=bool)
            gone[allowed] = False
            without = np.flatnonzero(gone)
        for start in range(0, len(histories), 1024):
            users = np.arange(start, min(start + 1024, len(histories)))
            proposals = self.candidates.propose(
                self._dated(histories.select(users)), beams[users], scores[users], exclude_history, without=without
            )
            rows[users], t5[users], trees[users] = self.best(proposals, k)
        return rows, t5, trees

    def score(self, histories: list[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """The trees' scores of given candidates, int [users, C], -1: none; float32 [users, C], ``-inf`` there.

        The T5 is not asked: its columns are unknown.
        """
        return self.score_sequences(Sequences.from_rows(histories), candidates)

    def score_sequences(self, histories: Sequences, candidates: np.ndarray) -> np.ndarray:
        return self._predict(self.candidates.describe(self._dated(histories), candidates))

    def _dated(self, histories: Sequences) -> Sequences:
        """The histories; for trees that know none without times, those end on the log's last day."""
        if not self.assume_last_day:
            return histories
        ends, last = histories.ends, self.candidates.last_day * SECONDS_PER_DAY + 1  # 0 would be unknown
        return replace(histories, at=np.where(ends < SECONDS_PER_DAY, last, ends))

    def best(self, proposals: Proposals, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`order`, of proposals that were made before."""
        log_probs = proposals.columns[..., self.candidates.names.index("t5: log-probability")]
        rows, log_probs, scores = best_first(self._predict(proposals), proposals.rows, log_probs, k)
        return rows, np.where(np.isnan(log_probs), -np.inf, log_probs), scores

    def _predict(self, proposals: Proposals) -> np.ndarray:
        reading = [self.candidates.names.index(name) for name in self.columns]
        table = proposals.columns[..., reading].reshape(-1, len(reading))
        scores = table[:, 0]
        if self.trees:
            threads = torch.get_num_threads()
            scores = np.mean([trees.predict(table, num_threads=threads) for trees in self.trees], axis=0)
        scores = scores.reshape(proposals.rows.shape)
        return np.where(proposals.rows < 0, -np.inf, scores).astype(np.float32)

    def add_items(self, tokenizer: SemanticIdTokenizer, items: pa.Table, vectors: np.ndarray) -> None:
        """Append new items, which have texts and codes but no log yet.

        Args:
            tokenizer, items: the whole catalog.
            vectors: float [new items, D].
        """
        codes = None if self.candidates.codes is None else tokenizer.codes
        self.candidates = self.candidates.extended(items, codes, vectors)

    def update_items(
        self, rows: np.ndarray, tokenizer: SemanticIdTokenizer, items: pa.Table, vectors: np.ndarray
    ) -> None:
        """Read new texts, codes and vectors [m, D] of the items ``rows`` [m]; what the log says of them stays."""
        known = self.candidates
        if known.vectors is not None:
            replaced = known.vectors.copy()
            replaced[rows] = vectors
        self.candidates = Candidates(
            items,
            *known.counts,
            codes=None if known.codes is None else tokenizer.codes,
            vectors=None if known.vectors is None else replaced,
            num_proposed=known.num_proposed,
        )

    def keep_items(self, rows: np.ndarray) -> None:
        """Remove all items but those at these rows."""
        self.candidates = kept(self.candidates, np.asarray(rows))

    def digest(self) -> bytes:
        """Of all trees, what they read, and what is known of the items and the log."""
        found = hashlib.sha256(json.dumps([self.columns, self.assume_last_day]).encode())
        for trees in self.trees:
            found.update(trees.model_to_string().encode())
        found.update(self.candidates.digest())
        return found.digest()

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write trees (LightGBM's text in JSON), and counts and content vectors (float16) as safetensors."""
        folder = Path(folder)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            folder / TREES, json.dumps({"lightgbm": [trees.model_to_string() for trees in self.trees]}) + "\n"
        )
        self.candidates.save(folder / COUNTS)
        if self.candidates.vectors is not None:
            write_atomically(folder / VECTORS, save({"vectors": self.candidates.vectors.astype(np.float16)}))
        settings = {"format": FORMAT, "columns": self.columns, "semantic_ids": self.fingerprint}
        settings |= {"num_proposed": self.candidates.num_proposed, "record": self.record}
        settings |= {"assume_last_day": self.assume_last_day, "learned_with_memory": self._with_memory}
        write_atomically(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        tokenizer: SemanticIdTokenizer,
        items: pa.Table | None = None,
        device: str | torch.device = "cpu",
    ) -> TwoStageRanker:
        """Read what :meth:`save_pretrained` wrote, over the same items with the same semantic IDs. The trees compute
        on the CPU, whatever ``device`` is.

        Raises:
            DataError: it belongs to other semantic IDs, is of another version, or damaged.
        """
        folder = Path(folder)
        settings = read_settings(folder / SETTINGS, FORMAT, OLD_FORMATS)
        if items is None:
            raise DataError(f"{folder}: the second stage reads the item table, which is not there. Save it again.")
        if settings["semantic_ids"] != tokenizer.fingerprint:
            raise DataError(f"{folder}: the ranker was made for other semantic IDs: run recipes/two_stage.py again.")
        trees = read_trees(folder / TREES, settings["columns"])
        vectors = read_vectors(folder / VECTORS, len(tokenizer))
        candidates = Candidates.load(
            folder / COUNTS, items, codes=tokenizer.codes, vectors=vectors, num_proposed=settings["num_proposed"]
        )
        known = settings["columns"], tokenizer.fingerprint, settings["record"], settings["assume_last_day"]
        return cls(candidates, trees, *known, settings.get("learned_with_memory"))


def _choice(
    candidates: Candidates,
    trees: list[lightgbm.Booster],
    columns: list[str],
    proposals: Proposals,
    targets: np.ndarray,
) -> OrderChoice:
    """The order that is best for users whose targets, int [n], the trees have not learned."""
    rankers = {BY_TREES: TwoStageRanker(candidates, trees, columns, "")}
    rankers[BY_HYBRID] = TwoStageRanker(candidates, [], [HYBRID_COLUMN], "")
    answers = {name: ranker.best(proposals, 10)[0] for name, ranker in rankers.items()}
    places = proposals.columns[..., candidates.names.index("t5: place")]
    if not np.isnan(places).all():
        ranking = np.where(np.isnan(places), -np.inf, -places)
        answers[BY_T5] = best_first(ranking, proposals.rows, places, 10)[0]
    return OrderChoice.of(answers, targets)
