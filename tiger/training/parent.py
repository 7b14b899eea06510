"""The parent of a training: the recommender whose semantic IDs and weights it goes on from, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiger.data.dataset import RecommendationData
from tiger.data.identity import INTERACTIONS, PARENT, data_digests, lacks_events_of
from tiger.data.splits import ALL
from tiger.embeddings.base import ItemEncoder
from tiger.evaluation.training_split import known_digests
from tiger.quantizers.auto import quantizer_class
from tiger.recommender.card_lineage import lineage_of
from tiger.recommender.manifest import MANIFEST, find_folder
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.config import retriever_config
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.vocabulary import HashedPrefixVocabulary
from tiger.utils.digests import sha256
from tiger.utils.errors import DataError
from tiger.utils.paths import nearest_hint

# Training events from which on a new item counts as seen. Set by hand, not tuned.
SEEN_FROM = 3
# Settings of a tokenizer that its quantizer and encoder were fitted by, recorded with the model.
FITTED_BY = ("embedding_dim", "seed", "cooccurrence_weight", "shuffle_ties")
_SHAPE = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "dropout_rate")


@dataclass(frozen=True)
class Parent:
    """A saved recommender that a training goes on from.

    Args:
        name: its folder, as the user names it.
        fingerprint: SHA-256 of its manifest, which has the digests of all its files.
        tiger: what the folder holds.
    """

    name: str
    fingerprint: str
    tiger: TigerRecommender

    @property
    def training(self) -> dict[str, Any]:
        return self.tiger.training

    @property
    def log(self) -> dict[str, Any] | None:
        """Facts of its log, see :func:`tiger.data.identity.log_summary`; None: it is older than these."""
        found = self.training.get("log")
        return found if isinstance(found, dict) else None

    @property
    def encoder(self) -> ItemEncoder:
        """The encoder of texts.

        Raises:
            DataError: it was saved without an encoder.
        """
        if self.tiger.encoder is None:
            raise DataError(
                f"{self.name} was saved without a text encoder: give --embeddings with all items' vectors."
            )
        return self.tiger.encoder

    @property
    def fitted_rows(self) -> np.ndarray:
        """Rows of the items that its quantizer was fitted to, int64: the first ones, without items added since."""
        count = lineage_of(self.training).get("fitted_items")
        if isinstance(count, int):
            return np.arange(min(count, len(self.tiger.tokenizer)))
        return np.flatnonzero(~self.tiger.unseen)

    def check_width(self, vectors: np.ndarray, file: str | None) -> None:
        """Refuse vectors that its quantizer can't read.

        Args:
            vectors: float [n, d].
            file: where they are from; None: its own encoder.

        Raises:
            DataError: they have another width.
        """
        quantizer = self.tiger.tokenizer.quantizer
        assert quantizer is not None  # else it was refused
        if vectors.shape[1] != quantizer.input_dim:
            raise DataError(
                f"{file or 'the encoder'} has vectors of {vectors.shape[1]} dimensions, the quantizer of {self.name} "
                f"reads {quantizer.input_dim}: give vectors of the parent's encoder."
            )


def load_parent(name: str, rank: bool = False) -> Parent:
    """Read the recommender that ``init_from`` names.

    Args:
        name: its folder, or its run's.
        rank: read its ranker too.

    Raises:
        DataError: there is none, or it is damaged.
    """
    return Parent(name, parent_digest(name)[PARENT], TigerRecommender.from_pretrained(name, rank=rank))


def parent_digest(name: str | None) -> dict[str, str]:
    """SHA-256 of the manifest of the recommender that ``init_from`` names; empty for None.

    Raises:
        DataError: there is no recommender.
    """
    if name is None:
        return {}
    folder = find_folder(name)
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"init_from: {name} is no saved recommender{nearest_hint(folder)}: give the folder with its {MANIFEST}, "
            "such as runs/yesterday/model."
        )
    return {PARENT: sha256(folder / MANIFEST)}


def lineage(parent: Parent, count: int) -> dict[str, Any]:
    """The record of a parent, as ``run.json`` and ``tiger.json`` keep it.

    Args:
        count: items of the catalog now.
    """
    before = lineage_of(parent.training)
    return {
        "model": parent.name,
        "fingerprint": parent.fingerprint,
        "semantic_ids": parent.tiger.tokenizer.fingerprint,
        "generation": int(before.get("generation", 0)) + 1,
        "data": known_digests(parent.training),
        "log": parent.log,
        "fitted_items": len(parent.fitted_rows),
        "new_items": count - len(parent.tiger.tokenizer),
    }


def check_ids_go_on(parent: Parent, args: Any, data: RecommendationData) -> None:
    """Refuse a parent whose semantic IDs can't be extended to a dataset with these settings.

    Args:
        args: :class:`tiger.training.tokenizer.TokenizerArguments`.
        data: the dataset.

    Raises:
        DataError: other codes, encoder or texts than the settings name, items that are gone, or another log.
    """
    tiger = parent.tiger
    quantizer = tiger.tokenizer.quantizer
    if quantizer is None:
        raise DataError(f"{parent.name} was saved without a quantizer: its semantic IDs can't be extended.")
    learned = tiger.tokenizer.learned_split
    pairs = {
        "quantizer": (quantizer_class(args.quantizer).__name__, type(quantizer).__name__),
        "num_codebooks": (args.num_codebooks or tiger.tokenizer.num_codebooks, tiger.tokenizer.num_codebooks),
        "template": (args.template, tiger.training.get("template")),
        "codes that know the log (cooccurrence_weight)": (bool(args.cooccurrence_weight), learned is not None),
    }
    if args.codebook_size:
        pairs["codebook_size"] = (args.codebook_size, tiger.tokenizer.codebook_size)
    if tiger.encoder is not None:
        own = tiger.encoder.name
        pairs["encoder"] = (args.encoder, "lsa" if type(tiger.encoder).__name__ == "LSAEncoder" else own)
    # What the frozen quantizer and encoder can't follow any more; parents that don't say had the defaults.
    recorded = tiger.training.get("tokenizer_settings")
    recorded = recorded if isinstance(recorded, dict) else {}
    for name in FITTED_BY:
        pairs[name] = (getattr(args, name), recorded.get(name, getattr(type(args), name)))
    if not recorded:  # only that there is some is known
        del pairs["cooccurrence_weight"]
    refuse_other(parent, pairs)
    gone = set(tiger.tokenizer.item_ids) - set(data.item_ids)
    if gone:
        some = ", ".join(map(repr, sorted(gone)[:3]))
        raise DataError(
            f"{args.dataset} lacks {len(gone):,} of the {len(tiger.tokenizer):,} items of {parent.name}, such as "
            f"{some}: keep their rows in items.parquet, and take them off the new model by `tiger items remove`."
        )
    check_log_goes_on(parent, data, args)


def check_log_goes_on(parent: Parent, data: RecommendationData, args: Any) -> None:
    """Refuse a log that lacks events of the parent's, or holds out what that may have seen, by what is recorded.

    Args:
        args: settings with ``dataset`` and ``split``.

    Raises:
        DataError: it does.
    """
    dataset = args.dataset
    if parent.log is not None:
        if reason := lacks_events_of(data, parent.log, held_out=args.split != ALL):
            raise DataError(
                f"{dataset} does not go on from the log of {parent.name}: {reason}. Give a log that holds the "
                "parent's events, or train without --init_from."
                + (" --split all takes them in any order of a day." if args.split != ALL else "")
            )
        return
    before = known_digests(parent.training).get(INTERACTIONS)
    if before is None or before != data_digests(data)[INTERACTIONS]:
        warnings.warn(
            f"{parent.name} is older than records of logs: whether {dataset} holds its events is not checked.",
            stacklevel=2,
        )


def check_settings_go_on(parent: Parent, args: Any) -> None:
    """Refuse a parent whose weights are not of these settings, or have seen what is held out here.

    Args:
        args: :class:`tiger.training.retriever_arguments.RetrieverArguments`.

    Raises:
        DataError: naming what differs.
    """
    config, own = parent.tiger.model.config, parent.tiger.tokenizer
    pairs = {name: (getattr(args, name), getattr(config, name)) for name in _SHAPE}
    if args.num_decoder_layers is None:
        pairs["num_decoder_layers"] = (args.num_layers, config.num_decoder_layers)
    recorded = parent.training.get("arguments")
    # Of no use to weights that are there already: another value would be passed over in silence.
    for name in ("history_attention", "user_tokens", "start_from", "start_share"):
        if isinstance(recorded, dict) and name in recorded:
            pairs[name] = (getattr(args, name), recorded[name])
    settings = retriever_config(parent.tiger.model)
    if args.output_softmax not in (None, "auto"):
        pairs["output_softmax"] = (args.output_softmax, settings.output_softmax)
    pairs["recent_items"] = (args.recent_items, settings.recent_items)
    if own.tokens == HashedPrefixVocabulary.kind:
        pairs["hashed_rows"] = (args.hashed_rows, settings.hashed_rows)
    pairs["tokens"] = (own.tokens if args.tokens == "auto" else args.tokens, own.tokens)
    refuse_other(parent, pairs, "retriever")
    if args.split != ALL and parent.training.get("split") == ALL:
        raise DataError(
            f"{parent.name} was trained on all events of its log, those that would validate and test among them: give "
            "--split all, or a parent that was trained without it."
        )
    if args.split != ALL and (args.shuffle_ties, parent.training.get("shuffle_ties")) != (None, None):
        raise DataError(
            "shuffle_ties and --init_from don't go together: events of one day stood in another order in the parent's "
            "log, so that it may have seen what is held out now. Leave out one of them, for the parent too, or give "
            "--split all."
        )


def check_weights_go_on(parent: Parent, args: Any, tokenizer: SemanticIdTokenizer, data: RecommendationData) -> None:
    """Refuse a parent whose weights are not of this tokenizer, these settings or this log.

    Args:
        args: :class:`tiger.training.retriever_arguments.RetrieverArguments`.
        tokenizer: the parent's, with the new items.

    Raises:
        DataError: naming what differs.
    """
    check_settings_go_on(parent, args)
    own = parent.tiger.tokenizer
    same = tokenizer.item_ids[: len(own)] == own.item_ids and len(tokenizer) >= len(own)
    if not same or not np.array_equal(tokenizer.token_table[: len(own)], own.token_table):
        raise DataError(
            f"{args.tokenizer} gives the items of {parent.name} other semantic IDs: codes name other things there. "
            "Extend the parent's tokenizer (tokenizer.init_from), or train without --init_from."
        )
    check_log_goes_on(parent, data, args)


def still_unseen(parent: Parent, counts: np.ndarray) -> np.ndarray:
    """Items that are still unseen after a training: new or unseen in the parent, with fewer than
    :data:`SEEN_FROM` training events.

    Args:
        counts: int [items], training events of each item, those of the parent first.
    """
    unseen = np.ones(len(counts), dtype=bool)
    unseen[: len(parent.tiger.unseen)] = parent.tiger.unseen
    return unseen & (counts < SEEN_FROM)


def refuse_other(parent: Parent, pairs: Mapping[str, tuple[Any, Any]], step: str | None = None) -> None:
    """Refuse settings that are not the parent's.

    Args:
        pairs: by name, the setting's value and the parent's.
        step: of the recipe, which the names are settings of; None: they name theirs themselves, or have none.

    Raises:
        DataError: naming those that differ.
    """
    others = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if others:
        told = "; ".join(f"{name} {wanted!r}, not {own!r}" for name, (wanted, own) in others.items())
        given = " ".join(f"{step}.{name}={own}" for name, (_, own) in others.items())
        remedy = "" if step is None else f" (of this version's recipe, --set {given})"
        raise DataError(
            f"{parent.name} was made with other settings ({told}): give the --recipe, --fast and --set "
            f"that it was trained with{remedy}, or train without --init_from."
        )
