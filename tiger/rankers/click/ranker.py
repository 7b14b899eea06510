"""The click model over a catalog: scores candidates and orders the T5's beams."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import save

from tiger._moved import old_member, old_names
from tiger.data.cooccurrence import COUNT_FLOOR
from tiger.data.sequences import Sequences, pad_rows
from tiger.evaluation.metrics import ndcg_at_k
from tiger.quantizers.base import Quantizer
from tiger.rankers.base import Ranker, SearchMemory, best_first, reads_memory
from tiger.rankers.click.beam_inputs import beam_inputs
from tiger.rankers.click.dataset import decoder_of
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.model import CONFIG_RULES, OPTIONAL_RULES, RankerConfig, SemanticIdRanker, check_ranker
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.model_files import load_model
from tiger.utils.tensor_files import read_arrays

DENSE, TOTALS = "dense.safetensors", "totals.safetensors"
T5_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
_USERS = 256
_ITEMS = 1 << 14  # whose content vectors are decoded at once


class ClickRanker(Ranker):
    """Scores items of a catalog by the logit of a click.

    Args:
        ranker: trained with these features.
        features: how it reads items.
        tokenizer: of the catalog: its item ids and codes, and the quantizer where the features decode these.
        dense: float [items, D], content vectors, where the features read stored ones.
        totals: float [items], events in the training log, where a beam head or a gate reads them; those below 5 count
            as 5.
    """

    kind = "click"

    def __init__(
        self,
        ranker: SemanticIdRanker,
        features: ItemFeatures,
        tokenizer: SemanticIdTokenizer,
        dense: np.ndarray | None = None,
        totals: np.ndarray | None = None,
    ):
        check_ranker(ranker, features, tokenizer.fingerprint)
        if ranker.config.num_context:
            raise DataError(
                f"this ranker reads {ranker.config.num_context} context columns, which a recommender does not have: "
                "train one without, or call the ranker itself."
            )
        if features.uses_dense and (dense is None or len(dense) != len(tokenizer)):
            raise DataError(
                f"{features.kind} reads content vectors: one for each of {len(tokenizer)} items is needed, "
                f"{'none are' if dense is None else f'{len(dense)} are'} given."
            )
        if ranker.reads_counts and (totals is None or len(totals) != len(tokenizer)):
            reader = "gate" if ranker.beam_head is None else "beam head"
            raise DataError(f"a ranker with a {reader} reads the number of events of each item: give totals.")
        self.ranker, self.features = ranker.eval(), features
        self._quantizer = _checked_decoder(ranker, tokenizer) if features.decodes else None
        self._codes = tokenizer.codes.copy() if features.decodes else None
        self._totals = None if totals is None else np.maximum(totals, COUNT_FLOOR).astype(np.float32)
        self._rows = torch.from_numpy(features.rows(tokenizer.item_ids, tokenizer.codes))
        self._dense = torch.from_numpy(np.asarray(dense, dtype=np.float32)) if features.uses_dense else None
        self._embedded: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def learned_from(self) -> str:
        """``valid`` once the weight of the T5 was tuned there, whichever weight was best; kept in the config."""
        # Rankers saved before that was kept: a weight other than 0 was tuned.
        return self.ranker.config.learned_from or ("valid" if self.ranker.config.t5_weight else "train")

    @property
    def reads_memory(self) -> bool | None:  # type: ignore[override]  # which depends on how it was trained
        """Whether its beam head was trained on searches with a memory; None: it has no beam head."""
        return None if self.ranker.beam_head is None else self.ranker.config.reads_memory

    @property
    def learned_with_memory(self) -> bool | None:  # type: ignore[override]  # which depends on how it was trained
        """Whether the T5's weight was tuned on searches with a memory; None: it is 0, or that was not recorded."""
        return self.ranker.config.learned_with_memory if self.ranker.config.t5_weight else None

    @property
    def fingerprint(self) -> str | None:
        """Of the semantic IDs that it was trained with; None where that is not recorded."""
        return self.ranker.config.semantic_ids

    @torch.inference_mode()
    def score(self, histories: list[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """Logits of candidates.

        Args:
            histories: rows of items, oldest first, one array per user.
            candidates: int [users, C], rows; -1: none.

        Returns:
            float32 [users, C]; ``-inf`` where there is no candidate.
        """
        device = self.ranker.device
        if self._embedded is None:
            self._embedded = self._embed_items()
        longest = self.ranker.config.max_history
        logits = np.full(candidates.shape, -np.inf, dtype=np.float32)
        for start in range(0, len(histories), _USERS):
            part = slice(start, start + _USERS)
            read = torch.from_numpy(_padded_left(histories[part], longest)).to(device)
            wanted = torch.from_numpy(candidates[part].astype(np.int64)).to(device)
            # The ranker projects all items that it is given, so it is given those that occur.
            both = torch.cat([read, wanted], dim=1)
            rows, places = both.unique(return_inverse=True)
            items = self._embedded[rows.clamp(min=0)]
            read, wanted = places.masked_fill(both < 0, -1).split([read.shape[1], wanted.shape[1]], dim=1)
            logits[part] = self.ranker.score(items, read, wanted).cpu().numpy()
        return np.where(candidates < 0, -np.inf, logits)

    def _embed_items(self) -> torch.Tensor:
        """Every item's vector, [items, d_model], once: the work per user is attention and the head."""
        found, device = [], self.ranker.device
        step = len(self) if self._quantizer is None else _ITEMS
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            dense = None if self._dense is None else self._dense[part]
            if self._quantizer is not None and self._codes is not None:
                dense = torch.from_numpy(self._quantizer.decode(self._codes[part])).float()
            counts = None if self.ranker.gate is None or self._totals is None else torch.from_numpy(self._totals[part])
            rows, dense, counts = (
                None if one is None else one.to(device) for one in (self._rows[part], dense, counts)
            )
            found.append(self.ranker.embed(rows, dense, counts))
        return torch.cat(found)

    def order(
        self,
        histories: Sequences,
        beams: np.ndarray,
        scores: np.ndarray,
        k: int,
        exclude_history: bool = True,
        allowed: np.ndarray | None = None,
        memory: SearchMemory | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ``k`` beams that the beam head scores best; where there is none, those with the highest sum of the logit
        and ``t5_weight`` times the T5's log-probability (a tempered one, where it samples); see
        :meth:`tiger.rankers.base.Ranker.order`.

        Args:
            memory: that the search had; None: none.

        Raises:
            DataError: see :func:`tiger.rankers.base.reads_memory`.
        """
        if self.ranker.beam_head is None:
            sums = _weighted_sums(self.score(list(histories), beams), scores, self.ranker.config.t5_weight)
            return best_first(sums, beams, scores, k)
        parts = None if memory is None else memory.parts(histories, beams, scores)
        return best_first(self.score_beams(self.inputs(histories, beams, scores, parts), beams), beams, scores, k)

    def inputs(
        self, histories: Sequences, beams: np.ndarray, scores: np.ndarray, memory: np.ndarray | None = None
    ) -> np.ndarray:
        """Inputs of the beam head, float32 [n, K, inputs + 1]; see :meth:`order`.

        Args:
            memory: float [n, K, parts], see :meth:`tiger.rankers.base.SearchMemory.parts`; None: no memory.
        """
        reads_memory(self, memory is not None)
        assert self._totals is not None  # checked when it was made
        logits = self.score(list(histories), beams)
        logits = np.where(beams < 0, 0, logits)[..., None]
        return np.concatenate([beam_inputs(beams, scores, self._totals, memory), logits], axis=-1)

    @torch.inference_mode()
    def score_beams(self, inputs: np.ndarray, beams: np.ndarray) -> np.ndarray:
        """The beam head's scores, float32 [n, K], of :meth:`inputs`; ``-inf`` where there is no beam."""
        head, device = self.ranker.beam_head, self.ranker.device
        assert head is not None
        with torch.autocast(device.type, enabled=False):
            found = head(torch.from_numpy(inputs).to(device)).cpu().numpy()
        return np.where(beams < 0, -np.inf, found).astype(np.float32)

    def tune_t5_weight(
        self,
        histories: Sequences,
        beams: np.ndarray,
        scores: np.ndarray,
        targets: np.ndarray,
        with_memory: bool | None = None,
    ) -> dict[float, float]:
        """Choose the weight of the T5's log-probability with the best NDCG@10, and set it in the ranker's config.

        A ranker trained with sampled negatives learns what a user clicks on among arbitrary items. Which of fifty
        likely items comes next, the T5 that proposed them knows as well.

        Args:
            histories: n sequences of item rows.
            beams, scores: as for :meth:`order`.
            targets: int [n], the next items; validation's, which neither model was trained on.
            with_memory: whether the beams are of searches with a memory: others are refused from then on; None: not
                known.

        Returns:
            NDCG@10 by weight, of those in ``T5_WEIGHTS``.
        """
        logits, found = self.score(list(histories), beams), {}
        for weight in T5_WEIGHTS:
            rows, _, _ = best_first(_weighted_sums(logits, scores, weight), beams, scores, beams.shape[1])
            found[weight] = ndcg_at_k(rows, targets, 10)
        self.ranker.config.t5_weight = max(found, key=found.__getitem__)
        self.ranker.config.learned_from, self.ranker.config.learned_with_memory = "valid", with_memory
        return found

    def weigh_t5(self, *args, **kwargs) -> dict[float, float]:
        """Deprecated name of :meth:`tune_t5_weight`."""
        return old_member(self, "weigh_t5", "tune_t5_weight")(*args, **kwargs)

    def add_items(self, tokenizer: SemanticIdTokenizer, items: pa.Table | None, vectors: np.ndarray) -> None:
        """Append the items that the tokenizer has gained; see :meth:`tiger.rankers.base.Ranker.add_items`."""
        new = len(self)
        rows = self.features.rows(tokenizer.item_ids[new:], tokenizer.codes[new:])
        self._rows = torch.cat([self._rows, torch.from_numpy(rows)])
        if self._dense is not None:
            if vectors is None or len(vectors) != len(rows):
                raise DataError(f"{self.features.kind} reads content vectors: new items need theirs.")
            self._dense = torch.cat([self._dense, torch.from_numpy(np.asarray(vectors, dtype=np.float32))])
        self._codes = None if self._codes is None else tokenizer.codes.copy()
        self._totals = None if self._totals is None else np.append(self._totals, _no_events(len(rows)))
        self._embedded = None

    def update_items(
        self, rows: np.ndarray, tokenizer: SemanticIdTokenizer, items: pa.Table | None, vectors: np.ndarray
    ) -> None:
        """Read items again; see :meth:`tiger.rankers.base.Ranker.update_items`."""
        ids = [tokenizer.item_ids[row] for row in rows]
        self._rows = self._rows.clone()
        self._rows[rows] = torch.from_numpy(self.features.rows(ids, tokenizer.codes[rows]))
        if self._dense is not None:
            self._dense = self._dense.clone()
            self._dense[rows] = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
        self._codes = None if self._codes is None else tokenizer.codes.copy()
        self._embedded = None

    def keep_items(self, rows: np.ndarray) -> None:
        """Remove all items but those at these rows."""
        kept = torch.from_numpy(rows)
        self._rows = self._rows[kept]
        self._dense = None if self._dense is None else self._dense[kept]
        self._codes = None if self._codes is None else self._codes[rows]
        self._totals = None if self._totals is None else self._totals[rows]
        self._embedded = None

    def to(self, device: str | torch.device) -> None:
        self.ranker.to(device)
        self._embedded = None

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the ranker, its features, content vectors (as float16; none where codes are decoded), and counts."""
        with disk_errors(folder):
            self.ranker.save_pretrained(folder)
            self.features.save_pretrained(folder)
            if self._dense is not None:
                write_atomically(Path(folder) / DENSE, save({"dense": self._dense.numpy().astype(np.float16)}))
            if self._totals is not None:
                write_atomically(Path(folder) / TOTALS, save({"totals": self._totals}))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        tokenizer: SemanticIdTokenizer,
        items: pa.Table | None = None,
        device: str | torch.device = "cpu",
    ) -> ClickRanker:
        """Read what :meth:`save_pretrained` wrote, over a tokenizer with the same items; ``items`` are not read.

        Raises:
            DataError: a file is missing, damaged, or made for other features or other semantic IDs.
        """
        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise DataError(f"{folder} holds no ranker: train one with recipes/ranker.py.")
        ranker = load_model(SemanticIdRanker, folder, CONFIG_RULES, OPTIONAL_RULES)
        ranker.to(device)
        features = ItemFeatures.from_pretrained(folder)
        dense = None
        if (folder / DENSE).exists():
            shape = (len(tokenizer), ranker.config.dense_dim)
            dense = read_arrays(folder / DENSE, {"dense": (("F16", "F32"), shape)})["dense"]
        totals = None
        if ranker.reads_counts:
            totals = read_arrays(folder / TOTALS, {"totals": ("F32", (len(tokenizer),))})["totals"]
        _check_sizes(folder, ranker.config, features, tokenizer)
        return cls(ranker, features, tokenizer, dense, totals)

    def digest(self) -> bytes:
        """Of its config and weights, and of all that it reads of the items."""
        config = {name: getattr(self.ranker.config, name) for name in (*CONFIG_RULES, *OPTIONAL_RULES)}
        found = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        weights = [one.detach().cpu() for one in self.ranker.state_dict().values()]
        for one in [*weights, self._rows, *(() if self._dense is None else (self._dense,))]:
            found.update(str((one.dtype, one.shape)).encode())
            found.update(one.contiguous().flatten().view(torch.uint8).numpy())
        found.update(b"" if self._totals is None else self._totals.tobytes())
        if self._quantizer is not None and self._codes is not None:
            for start in range(0, len(self), _ITEMS):
                vectors = self._quantizer.decode(self._codes[start : start + _ITEMS])
                found.update(np.ascontiguousarray(vectors).ravel().data)
        return found.digest()


def _check_sizes(folder: Path, config: RankerConfig, features: ItemFeatures, tokenizer: SemanticIdTokenizer) -> None:
    """Refuse features whose rows the ranker's table doesn't have, or that read other codes."""
    sizes = (features.num_codebooks, features.codebook_size)
    fine = config.budget == (features.budget if features.tables else 1)
    fine &= (features.uses_dense or features.decodes) == (config.dense_dim > 0)
    fine &= list(config.gate_columns) in ([], features.own_columns)
    fine &= not features.reads_codes or sizes == (tokenizer.num_codebooks, tokenizer.codebook_size)
    if not fine:
        raise DataError(f"{folder}: ranker, item features and semantic IDs have different sizes. Save it again.")


def _checked_decoder(ranker: SemanticIdRanker, tokenizer: SemanticIdTokenizer) -> Quantizer:
    """The tokenizer's quantizer, whose vectors are as long as those that the ranker reads.

    Raises:
        DataError: there is none, or it decodes to others.
    """
    quantizer = decoder_of(tokenizer.quantizer)
    if quantizer.input_dim != ranker.config.dense_dim:
        raise DataError(
            f"this ranker reads vectors of {ranker.config.dense_dim} numbers, the tokenizer's quantizer decodes codes "
            f"to {quantizer.input_dim}: use the tokenizer that it was trained with."
        )
    return quantizer


def _no_events(count: int) -> np.ndarray:
    return np.full(count, COUNT_FLOOR, dtype=np.float32)


def _weighted_sums(logits: np.ndarray, scores: np.ndarray, t5_weight: float) -> np.ndarray:
    """Logits plus weighted log-probabilities, [users, C]; places without an item have no logit either."""
    return logits + t5_weight * np.where(np.isfinite(scores), scores, 0)


def _padded_left(histories: list[np.ndarray], longest: int) -> np.ndarray:
    """int64 [users, at most ``longest``]: the last items of each, padded on the left with -1."""
    turned = pad_rows([np.asarray(history[-longest:])[::-1] for history in histories])
    return turned[:, ::-1].copy()


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
