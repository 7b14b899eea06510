"""Item texts -> embeddings -> codes: fit a tokenizer on a dataset."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from tiger.data.dataset import RecommendationData
from tiger.data.identity import EMBEDDINGS, ITEMS, PARENT, TRAIN, check_same_data, data_digests
from tiger.data.splits import LEAVE_ONE_OUT, SPLIT_HELP
from tiger.embeddings.auto import load_encoder
from tiger.embeddings.base import ItemEncoder, load_embeddings, note_place
from tiger.embeddings.item_text import check_texts, has_words, item_texts
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.quantizers.log_report import log_report
from tiger.quantizers.report import REPORT, plot_code_usage, quantization_report, template_of
from tiger.semantic_ids.drift import drift_report
from tiger.semantic_ids.fitting import Cooccurrence
from tiger.semantic_ids.packing import Packing
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.catalog_size import MOST_SHARED, TWO_LEVELS, CatalogSize
from tiger.training.parent import FITTED_BY, check_ids_go_on, load_parent, parent_digest
from tiger.utils import devices
from tiger.utils.digests import check_digests, sha256, write_digests
from tiger.utils.errors import DataError
from tiger.utils.files import refuse_other_files, replaced_folder
from tiger.utils.json_files import read_json
from tiger.utils.schema import check_fields, dict_of, text

Encoder = SentenceEncoder | LSAEncoder
CODE_USAGE = "code_usage.png"
# What goes when a tokenizer is fitted anew: all else in its directory is the owner's.
OWN_FILES = ("semantic_ids.safetensors", "quantizer", "encoder", REPORT, CODE_USAGE, "files.json")


@dataclass
class TokenizerArguments:
    """Settings of :func:`train_tokenizer`; the keys of a recipe's ``tokenizer.yaml``."""

    dataset: str = field(metadata={"help": "dataset directory, or owner/name on the Hub"})
    output_dir: str = field(metadata={"help": "output directory for the tokenizer"})
    encoder: str = field(
        default="sentence-transformers/sentence-t5-base",
        metadata={"help": "a SentenceTransformer by name or folder, or 'lsa'"},
    )
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors with the encoder's vectors, in place of running it"}
    )
    template: str | None = field(default=None, metadata={"help": "columns of an item's text, comma-separated"})
    embedding_dim: int = field(default=256, metadata={"help": "dimensions of the LSA encoder"})
    quantizer: str = field(default="rqvae", metadata={"help": "rqvae or residual-kmeans"})
    num_codebooks: int = field(
        default=3,
        metadata={
            "help": "levels of codes, without the collision token; 0: 2, more in a catalog of over 21,845 items"
        },
    )
    codebook_size: int | None = field(
        default=None, metadata={"help": "codes per level; default: 256, fewer in a catalog of under 1,024 items"}
    )
    cooccurrence_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of co-occurrences in the codes: length of their vectors, where text vectors have length 1"
        },
    )
    shuffle_ties: int | None = field(
        default=None, metadata={"help": "the split for cooccurrence_weight, as for the retriever"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the quantizer's initialization"})
    split: str = field(default=LEAVE_ONE_OUT, metadata={"help": SPLIT_HELP})
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "directory of a recommender whose semantic IDs stay: new items get theirs by its quantizer, which "
            "is not fitted anew"
        },
    )


def train_tokenizer(args: TokenizerArguments) -> SemanticIdTokenizer:
    """Fit a quantizer to the items of a dataset and give every item its semantic ID.

    Writes the semantic IDs, the quantizer, the encoder, ``report.json`` and ``code_usage.png`` to ``args.output_dir``,
    all of them or none.

    Raises:
        DataError: the dataset, the vectors or the settings can't be used.
        FileExistsError: ``args.output_dir`` holds something else than a tokenizer.
    """
    refuse_other_files(args.output_dir, REPORT)
    data = RecommendationData.load(args.dataset)
    if args.init_from:
        return _extended(args, data)
    check_sizes(args, data.num_items)
    encoder, embeddings = embedded_items(args, data)
    cooccurrence = None
    if args.cooccurrence_weight:
        split = data.split(args.split, args.shuffle_ties)
        learned = {"shuffle_ties": args.shuffle_ties} | ({} if split.held_out else {"all": 1})
        vectors = cooccurrence_vectors(split.train, data.num_items)
        cooccurrence = Cooccurrence(vectors, learned, args.cooccurrence_weight)
    start = time.perf_counter()
    tokenizer = fitted_tokenizer(args, embeddings, data.item_ids, cooccurrence)
    quantizer = tokenizer.quantizer
    assert quantizer is not None  # it has just been fitted
    if isinstance(quantizer, torch.nn.Module):
        quantizer.to("cpu")
    seconds = time.perf_counter() - start
    report = {
        "dataset": args.dataset,
        "encoder": encoder.name,
        "template": args.template,
        "settings": {name: getattr(args, name) for name in FITTED_BY},
        "cooccurrence_weight": args.cooccurrence_weight,
        "shuffle_ties": args.shuffle_ties,
        "seconds": round(seconds, 1),
        "data": digests_of(args, data),
    }
    _write(args, data, Fitted(tokenizer, cast(ItemEncoder, encoder), embeddings), report)
    return tokenizer


@dataclass(frozen=True)
class Fitted:
    """A tokenizer, the encoder of its texts (None: there is none) and the items' vectors, float32 [items, d]."""

    tokenizer: SemanticIdTokenizer
    encoder: ItemEncoder | None
    vectors: np.ndarray


def _extended(args: TokenizerArguments, data: RecommendationData) -> SemanticIdTokenizer:
    """Give new items their semantic IDs by the quantizer of the recommender that ``args.init_from`` names.

    Rows of the tokenizer are those of the parent's, then the new items in the order of the item table.
    """
    parent = load_parent(str(args.init_from))
    check_ids_go_on(parent, args, data)
    start = time.perf_counter()
    tokenizer, old = copy.copy(parent.tiger.tokenizer), parent.tiger.tokenizer
    known = set(old.item_ids)
    order = [*old.item_ids, *(item for item in data.item_ids if item not in known)]
    ordered = data.in_order(order)
    if args.embeddings:
        vectors = vectors_of(args.embeddings, ordered)
    else:
        texts = item_texts(ordered.items, args.template, required=False)
        check_texts(order[len(old) :], texts[len(old) :])
        vectors = parent.encoder.encode(texts)
    parent.check_width(vectors, args.embeddings)
    if len(order) > len(old):
        tokenizer.add_items(order[len(old) :], vectors[len(old) :])
    fitted = parent.fitted_rows
    new = np.setdiff1d(np.arange(len(order)), fitted)
    quantizer = tokenizer.quantizer
    assert quantizer is not None  # checked above
    drift = drift_report(quantizer, vectors[fitted], vectors[new]) if len(new) and len(fitted) else None
    report = {
        "dataset": args.dataset,
        "encoder": getattr(parent.tiger.encoder, "name", None),
        "template": args.template,
        "settings": {name: getattr(args, name) for name in FITTED_BY},
        "cooccurrence_weight": args.cooccurrence_weight,
        "shuffle_ties": args.shuffle_ties,
        "seconds": round(time.perf_counter() - start, 1),
        "data": digests_of(args, data),
        "parent": {"fingerprint": parent.fingerprint, "items": len(old), "new_items": len(order) - len(old)},
        "drift": drift,
    }
    _write(args, ordered, Fitted(tokenizer, parent.tiger.encoder, vectors), report)
    return tokenizer


def _write(args: TokenizerArguments, data: RecommendationData, made: Fitted, report: dict) -> None:
    """Write a tokenizer's directory; ``data`` is in the order of its items."""
    tokenizer = made.tokenizer
    quantizer = tokenizer.quantizer
    assert quantizer is not None  # it was fitted, or the parent would have been refused
    report |= quantization_report(
        tokenizer.codes, made.vectors, quantizer.decode(tokenizer.codes), tokenizer.codebook_size
    )
    report |= codes_in_log(args, data, tokenizer.codes)
    write_tokenizer(args.output_dir, tokenizer, made.encoder, report)


def write_tokenizer(
    output_dir: str | os.PathLike, tokenizer: SemanticIdTokenizer, encoder: ItemEncoder | None, report: dict
) -> None:
    """Write a tokenizer's directory, whole, and print a line of its codes.

    Args:
        report: of :func:`quantization_report`, with what else is known of the fit.
    """
    size = tokenizer.codebook_size
    with replaced_folder(output_dir, REPORT, ours=lambda old: OWN_FILES) as folder:
        tokenizer.save_pretrained(folder)
        if encoder is not None:
            encoder.save_pretrained(folder / "encoder")
            note_place(folder / "encoder", Path(output_dir) / "encoder")
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        plot_code_usage(tokenizer.codes, size, folder / CODE_USAGE)
        write_digests(folder)
    used = ", ".join(str(len(np.unique(level))) for level in tokenizer.codes.T)
    print(
        f"{len(tokenizer):,} items; codes in use per level, of {size}: {used}; {report['collision_share']:.1%} of the "
        f"items share all codes with another, see {Path(output_dir) / CODE_USAGE}"
    )


def sized(args: TokenizerArguments, num_items: int) -> TokenizerArguments:
    """The settings with the sizes that a catalog of so many items asks for, where they leave them open."""
    size = CatalogSize.of(num_items, args.codebook_size)
    return replace(args, num_codebooks=args.num_codebooks or size.num_codebooks, codebook_size=size.codebook_size)


def check_encoder(args: TokenizerArguments) -> None:
    """Refuse LSA as the encoder of a file's vectors, which it has not made.

    Raises:
        DataError: the settings name it.
    """
    if args.embeddings and args.encoder == "lsa":
        raise DataError(
            "embeddings of a file come from an encoder of their own: name the SentenceTransformer that made them (of "
            "tiger train, --set tokenizer.encoder=NAME; of a recipe, --encoder NAME), or else use any other name."
        )


def check_sizes(args: TokenizerArguments, num_items: int) -> None:
    """Refuse sizes that no semantic ID has room for, before the texts are read.

    Raises:
        DataError: they are too large.
    """
    args = sized(args, num_items)
    assert args.codebook_size is not None  # the number of items has decided it
    Packing(args.num_codebooks, args.codebook_size)


def fitted_tokenizer(
    args: TokenizerArguments, embeddings: np.ndarray, item_ids: list[str], cooccurrence: Cooccurrence | None
) -> SemanticIdTokenizer:
    """Fit codes to embeddings, float [items, dimensions], with as many levels as :func:`fewest_levels` says."""

    def fitted(levels: int, size: int) -> SemanticIdTokenizer:
        return SemanticIdTokenizer.fit(
            embeddings,
            item_ids,
            num_codebooks=levels,
            codebook_size=size,
            quantizer=args.quantizer,
            cooccurrence=cooccurrence,
            seed=args.seed,
            device=str(devices.fastest()),
        )

    return fewest_levels(args, len(item_ids), fitted)


def fewest_levels(
    args: TokenizerArguments, num_items: int, fitted: Callable[[int, int], SemanticIdTokenizer]
) -> SemanticIdTokenizer:
    """A tokenizer of the settings' sizes. Where they leave the levels open and items of a large catalog still share
    all codes too often, a level more is tried, and a second one.

    Args:
        fitted: makes a tokenizer of so many levels and codes per level.
    """
    sizes, best, shared = sized(args, num_items), None, 1.0
    is_open = not args.num_codebooks and num_items > TWO_LEVELS
    for levels in range(sizes.num_codebooks, sizes.num_codebooks + (3 if is_open else 1)):
        tokenizer = fitted(levels, sizes.codebook_size or 1)
        found = float((tokenizer.semantic_ids[:, -1] > 0).mean())
        if best is not None and found > 0.9 * shared:  # equal texts: no level tells them apart
            break
        best, shared = tokenizer, found
        if shared <= MOST_SHARED:
            break
        if is_open:
            print(f"{shared:.0%} of the items have all {levels} codes of another one.")
    assert best is not None  # the first is better than none
    return best


def embedded_items(args: TokenizerArguments, data: RecommendationData) -> tuple[Encoder, np.ndarray]:
    """The encoder that the settings name, fitted where it has to be, and its vectors, float32 [items, dimensions]."""
    check_encoder(args)
    if args.embeddings:
        return SentenceEncoder(args.encoder), load_embeddings(args.embeddings, data.num_items)
    # Where the log speaks for items too, some may be without text.
    texts = item_texts(data.items, args.template, required=not args.cooccurrence_weight)
    if empty := texts.count(""):
        print(f"{empty} of {len(texts)} items have no text: the log alone says what they are.")
    encoder: Encoder
    if args.encoder != "lsa":
        encoder = SentenceEncoder(args.encoder)
    elif args.cooccurrence_weight and not any(map(has_words, texts)):
        encoder = LSAEncoder.without_words()
    else:
        encoder = LSAEncoder.fit(texts, args.embedding_dim)
    return encoder, encoder.encode(texts)


def codes_in_log(args: TokenizerArguments, data: RecommendationData, codes: np.ndarray) -> dict:
    """Codes against the training part of the log; empty where no user has enough events for one.

    Where the codes were learned from that log, this is how well they fit it.
    """
    if not (data.sequences.lengths >= 3).any():
        return {}
    return log_report(codes, data.split(args.split, args.shuffle_ties).train)


def digests_of(args: TokenizerArguments, data: RecommendationData) -> dict[str, str]:
    """Digests of both tables and of all else that a tokenizer is fitted on: kept in its report, compared later."""
    learned = args.cooccurrence_weight and not args.init_from
    split = data.split(args.split, args.shuffle_ties) if learned else None
    return data_digests(data, split) | embeddings_digest(args.embeddings) | parent_digest(args.init_from)


def embeddings_digest(file: str | None) -> dict[str, str]:
    """Digest of a file of vectors; none where there is no such file, which is for those to say who read it."""
    return {EMBEDDINGS: sha256(file)} if file and Path(file).exists() else {}


def check_fitted_on(tokenizer: str | os.PathLike, found: Mapping[str, str], dataset: str) -> None:
    """Refuse a tokenizer that was fitted on other data; those of older versions don't know theirs.

    The log counts only where the codes were learned from it, and there its training part: texts alone may serve a log
    that goes on.

    Args:
        tokenizer: the folder that :func:`train_tokenizer` wrote.
        found: digests of the present data.
        dataset: where that lies.

    Raises:
        DataError: naming the table that differs.
    """
    report = Path(tokenizer) / REPORT
    saved = read_json(report) if report.exists() else {}
    check_fields(saved, {}, report, data=dict_of(text(64), 100))
    counting = {name: found[name] for name in (ITEMS, TRAIN, EMBEDDINGS, PARENT) if name in found}
    remedy = "put back what it was, or fit a tokenizer on this data, into another folder"
    check_same_data(saved.get("data", {}), counting, dataset, f"the tokenizer in {tokenizer}", remedy)


def load_data_and_tokenizer(
    dataset: str, tokenizer: str, shuffle_ties: int | None, split: str = LEAVE_ONE_OUT
) -> tuple[RecommendationData, SemanticIdTokenizer, dict[str, str]]:
    """Read a dataset and the tokenizer that was fitted on it; also return digests of both tables and of the split.

    The data's items are in the tokenizer's order.

    Raises:
        DataError: either is damaged, the tokenizer is of other items or other texts, or its codes were learned from
            another split.
    """
    data = RecommendationData.load(dataset)
    check_digests(tokenizer)
    fitted = SemanticIdTokenizer.from_pretrained(tokenizer)
    if len(fitted) != data.num_items or set(fitted.item_ids) != set(data.item_ids):
        raise DataError(f"{tokenizer} has other items than {dataset} holds: fit it on this dataset.")
    parts = data.split(split, shuffle_ties)
    fitted.check_split(shuffle_ties, parts.held_out)
    found = data_digests(data, parts)
    check_fitted_on(tokenizer, found, dataset)
    return data.in_order(fitted.item_ids), fitted, found


def saved_vectors(tokenizer: str, embeddings: str | None, data: RecommendationData) -> np.ndarray:
    """Vectors of the items' texts, float32 [items, dimensions], by the encoder that was saved with a tokenizer.
    Items without text have that of an empty one: where a tokenizer may not have such, its fit refused them.

    Args:
        tokenizer: the folder that :func:`train_tokenizer` wrote.
        embeddings: a safetensors file of the vectors, in place of running the encoder.
    """
    if embeddings:
        return vectors_of(embeddings, data)
    texts = item_texts(data.items, template_of(tokenizer), required=False)
    return load_encoder(Path(tokenizer) / "encoder").encode(texts)


def vectors_of(file: str, data: RecommendationData) -> np.ndarray:
    """Vectors of a file in the order of the item table that was read, in the present order of the data's items."""
    vectors = load_embeddings(file, data.num_items)
    return vectors if data.file_rows is None else vectors[data.file_rows]
