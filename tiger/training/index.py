"""Files of items to a tokenizer's directory, without a log, in one process or many: the same semantic IDs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tiger.embeddings.base import ItemEncoder
from tiger.embeddings.lsa_encoder import MAX_TEXTS, LSAEncoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.quantizers.auto import fit_quantizer, save_quantizer
from tiger.quantizers.report import REPORT, quantization_report
from tiger.semantic_ids.fitting import MAX_ROWS
from tiger.semantic_ids.numbering import check_ids
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.index_worker import (
    ENCODER,
    WORK_FOLDERS,
    IndexSettings,
    IndexWorker,
    QuantizeTask,
    codes_file,
    read_array,
    vectors_file,
)
from tiger.training.item_chunks import ItemChunk, item_chunks, texts_of_rows
from tiger.training.tokenizer import Encoder, TokenizerArguments, check_sizes, fewest_levels, write_tokenizer
from tiger.utils import devices
from tiger.utils.errors import DataError
from tiger.utils.files import refuse_other_files
from tiger.utils.sampling import sampled_rows
from tiger.utils.stores import Store, absolute, open_store, read_object, store_of

PLAN = "plan.json"
OWN_FOLDER = "tiger-index"  # within a folder that the user names: that may hold anything
Run = Callable[[str, Iterable[Any]], Iterator[Any]]


@dataclass(frozen=True)
class IndexArguments:
    """Files of items and how to index them.

    Args:
        files: parquet files with ``item_id``, paths or URLs; their order is that of the rows.
        output_dir: gets the tokenizer, as :func:`tiger.train_tokenizer` writes it.
        encoder, template, embedding_dim, quantizer, num_codebooks, codebook_size, seed: as in
            :class:`tiger.TokenizerArguments`, but for ``num_codebooks``, which the number of items decides if it is 0.
        work: folder in which the intermediate files get a folder of their own, ``tiger-index``: a path or URL that all
            machines reach; None: beside ``output_dir``.
    """

    files: tuple[str, ...]
    output_dir: str
    encoder: str = "sentence-transformers/sentence-t5-base"
    template: str | None = None
    embedding_dim: int = 256
    quantizer: str = "residual-kmeans"
    num_codebooks: int = 0
    codebook_size: int | None = None
    seed: int = 0
    work: str | None = None

    @property
    def work_folder(self) -> str:
        """The folder of intermediate files alone, which is removed in the end."""
        if self.work is not None:
            return f"{absolute(self.work).rstrip('/')}/{OWN_FOLDER}"
        out = Path(os.path.abspath(self.output_dir))
        return str(out.with_name(f".{out.name}.parts"))


def index_items(args: IndexArguments, started: Callable[[IndexSettings], Run] | None = None) -> SemanticIdTokenizer:
    """Give every item of some files its semantic ID, and write the tokenizer. A run that was killed goes on.

    Up to 200,000 items, these are the semantic IDs of :func:`tiger.train_tokenizer`; beyond that, encoder and
    quantizer are fitted to a random sample of as many.

    Args:
        started: what runs the methods of :class:`tiger.training.index_worker.IndexWorker`, once the settings are
            known: a function of a method's name and its tasks, which yields as they are done. None: this process.

    Raises:
        DataError: the files or the settings can't be used, or ``work`` holds another run.
        FileExistsError: ``output_dir`` holds something else than a tokenizer.
    """
    refuse_other_files(args.output_dir, REPORT)
    chunks, store = item_chunks(args.files), open_store(args.work_folder)
    begin = time.perf_counter()
    item_ids = _item_ids(chunks)
    told = TokenizerArguments(
        dataset=args.files[0],
        output_dir=args.output_dir,
        num_codebooks=args.num_codebooks,
        codebook_size=args.codebook_size,
    )
    check_sizes(told, len(item_ids))
    _check_plan(args, chunks, store)
    encoder = _encoder(args, chunks, store)
    settings = IndexSettings(args.work_folder, _encoder_name(args), args.template)
    run = _in_this_process(settings) if started is None else started(settings)
    for _ in run("encode", chunks):
        pass
    sample = sampled_rows(len(item_ids), MAX_ROWS, args.seed)
    vectors = _rows_of(store, chunks, sample)

    def fitted(levels: int, size: int) -> SemanticIdTokenizer:
        options = {"seed": args.seed, "device": str(devices.fastest())}
        quantizer: Any = fit_quantizer(args.quantizer, vectors, levels, size, **options)
        if isinstance(quantizer, torch.nn.Module):
            quantizer.to("cpu")
        name = f"quantizer-{levels}x{size}"
        _put_folder(store, name, lambda folder: save_quantizer(quantizer, folder))
        for _ in run("quantize", [QuantizeTask(chunk.number, name) for chunk in chunks]):
            pass
        codes = np.concatenate([read_array(store, codes_file(name, chunk.number)) for chunk in chunks])
        return SemanticIdTokenizer(codes, item_ids, size, quantizer=quantizer)

    tokenizer = fewest_levels(told, len(item_ids), fitted)
    seconds = round(time.perf_counter() - begin, 1)
    report = _report(args, tokenizer, encoder.name, vectors, sample, seconds)
    write_tokenizer(args.output_dir, tokenizer, cast(ItemEncoder, encoder), report)
    store.remove()
    return tokenizer


def _in_this_process(settings: IndexSettings) -> Run:
    worker = IndexWorker(settings)
    return lambda method, tasks: map(getattr(worker, method), tasks)


def _item_ids(chunks: Sequence[ItemChunk]) -> list[str]:
    """Ids of all items, in the order of their rows.

    Raises:
        DataError: one is null, or occurs twice.
    """
    columns = [chunk.read(["item_id"])["item_id"] for chunk in chunks]
    item_ids = [item for column in columns for item in column.cast("string").to_pylist()]
    return check_ids(item_ids, sum(chunk.rows for chunk in chunks))


def _check_plan(args: IndexArguments, chunks: Sequence[ItemChunk], store: Store) -> None:
    """Begin a run, or go on with the one that was killed.

    Raises:
        DataError: the folder holds another one, one of files that were written again since, or files of others.
    """
    told = {name: value for name, value in asdict(args).items() if name not in ("files", "output_dir", "work")}
    versions = {file: _version(file) for file in dict.fromkeys(chunk.file for chunk in chunks)}
    plan = json.dumps(told | {"chunks": [asdict(chunk) for chunk in chunks], "versions": versions})
    others = [name for name in store.names() if not _is_ours(name)]
    if others:
        raise DataError(f"{store.place} holds other files, which would be lost, {others[0]!r} for one: move them.")
    found = read_object(store, PLAN)
    if found is None:
        store.remove()  # what is left of a run that was killed while it removed its files
        store.write(PLAN, plan.encode())
    elif found != json.loads(plan):
        raise DataError(
            f"{store.place} holds an interrupted run of other items or settings: remove it, or go on there."
        )


def _is_ours(name: str) -> bool:
    """Whether a run leaves files of this name in its folder."""
    first, _, rest = name.partition("/")
    return name == PLAN or bool(rest) and (first in WORK_FOLDERS or first.startswith("quantizer-"))


def _version(file: str) -> str | None:
    store, name = store_of(file)
    return store.version(name)


def _encoder_name(args: IndexArguments) -> str:
    return os.path.abspath(args.encoder) if Path(args.encoder).is_dir() else args.encoder


def _encoder(args: IndexArguments, chunks: Sequence[ItemChunk], store: Store) -> Encoder:
    """The encoder, fitted where it has to be; its files are for the workers."""
    if args.encoder != "lsa":
        return SentenceEncoder(args.encoder)
    count = sum(chunk.rows for chunk in chunks)
    rows = sampled_rows(count, MAX_TEXTS, 0)  # as LSAEncoder.fit draws it
    encoder = LSAEncoder.fit(texts_of_rows(chunks, rows, args.template), args.embedding_dim)
    _put_folder(store, ENCODER, encoder.save_pretrained)
    return encoder


def _rows_of(store: Store, chunks: Sequence[ItemChunk], rows: np.ndarray) -> np.ndarray:
    """Vectors of these rows, float32 [n, d]."""
    parts = []
    for chunk in chunks:
        low, high = np.searchsorted(rows, [chunk.start, chunk.start + chunk.rows])
        if low < high:
            parts.append(read_array(store, vectors_file(chunk.number))[rows[low:high] - chunk.start])
    return np.concatenate(parts)


def _put_folder(store: Store, name: str, save: Callable[[Path], Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="tiger.") as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        save(folder)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            store.put(f"{name}/{file.relative_to(folder).as_posix()}", file)


def _report(
    args: IndexArguments,
    tokenizer: SemanticIdTokenizer,
    encoder: str,
    vectors: np.ndarray,
    sample: np.ndarray,
    seconds: float,
) -> dict[str, Any]:
    """As :func:`tiger.train_tokenizer` reports; errors and collisions are of the sample where there is one."""
    codes, quantizer = tokenizer.codes[sample], tokenizer.quantizer
    assert quantizer is not None  # it has just been fitted
    return {
        "files": list(args.files),
        "encoder": encoder,
        "template": args.template,
        "seconds": seconds,
        "items": len(tokenizer),
        **quantization_report(codes, vectors, quantizer.decode(codes), tokenizer.codebook_size),
    }
