"""Stages of :mod:`growth`: each takes a made catalog, makes what it reads, and returns the work that is measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from made_catalog import MadeCatalog
from scipy import sparse

from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.item_vectors import cooccurrence_vectors, tfidf_vectors
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.evaluation.baselines import Hybrid
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.kept_candidates import kept
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import t5_config
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import TrainingExamples
from tiger.retriever.initialization import init_token_embeddings
from tiger.retriever.memory import ItemMemory
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.code_tree import CodeTree
from tiger.semantic_ids.fitting import Cooccurrence
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.semantic_ids.vocabulary import PREFIX_KINDS
from tiger.training.catalog_size import CatalogSize
from tiger.training.memory import fit_memory

Work = Callable[[], object]
Stage = Callable[[MadeCatalog], Work | dict[str, Work]]
STAGES: dict[str, Stage] = {}
# Stages that read neither texts nor a log.
AT_ANY_SIZE = ("tokenizer of codes", "trie", "search, a batch of 16")
TURNS = 5  # of what takes milliseconds


def stage(name: str, **settings: Any) -> Callable:
    """Register a stage under the name that results have; one of several steps returns these by name, in order.

    A function may be several stages, by other settings; the lowest decorator's comes first.
    """

    def registered(function: Callable) -> Callable:
        STAGES[name] = partial(function, **settings)
        return function

    return registered


def times(run: Work, warm: int = 1) -> Callable[[], dict]:
    """The work several times; its own result is the CPU time of one."""

    def repeated() -> dict:
        for _ in range(warm):
            run()
        start = time.process_time()
        for _ in range(TURNS):
            run()
        return {"cpu_seconds": round((time.process_time() - start) / TURNS, 5)}

    return repeated


def candidates_of(catalog: MadeCatalog) -> Candidates:
    vectors = np.random.default_rng(3).standard_normal((catalog.size, 64), dtype=np.float32)
    return Candidates.fit(catalog.train, catalog.items, codes=catalog.codes, vectors=vectors)


def some_histories(catalog: MadeCatalog, count: int) -> Sequences:
    return catalog.train.select(np.random.default_rng(4).integers(0, len(catalog.train), count))


@stage("second stage")
def second_stage(catalog: MadeCatalog) -> dict[str, Work]:
    assert len(catalog.train) and len(catalog.codes) and catalog.items.num_rows
    made: dict[str, Candidates] = {}
    items, codes = pa.concat_tables([catalog.items, catalog.items.slice(0, 1)]), catalog.codes[:1]
    codes, vector = np.concatenate([catalog.codes, codes]), np.ones((1, 64), dtype=np.float32)
    one, many = some_histories(catalog, 1), some_histories(catalog, 256)
    rows = np.random.default_rng(5).integers(0, catalog.size, (1, 100))
    stay = np.delete(np.arange(catalog.size), catalog.size // 2)
    return {
        "fit of candidates": lambda: made.setdefault("all", candidates_of(catalog)) and None,
        "one request": times(lambda: made["all"].propose(one)),
        "given candidates of one request": times(lambda: made["all"].describe(one, rows)),
        "256 users at once": lambda: made["all"].propose(many),
        "remove one item": lambda: kept(made["all"], stay),
        "the first item added": lambda: made.setdefault("more", made["all"].extended(items, codes, vector)) and None,
        "an item more": lambda: made["more"].extended(
            pa.concat_tables([items, items.slice(0, 1)]), np.concatenate([codes, codes[:1]]), vector
        ),
    }


@stage("remove one item, codes", tokens="codes", remove=True)
@stage("add one item, codes", tokens="codes")
@stage("add one item, hashed prefixes", tokens="hashed_prefixes")
@stage("add one item, prefixes", tokens="prefixes")
def changed(catalog: MadeCatalog, tokens: str, remove: bool = False) -> Work:
    recommender = catalog.recommender(tokens)
    recommender.recommend([catalog.item_ids[:3]], k=5, num_beams=5)
    codes = np.random.default_rng(6).integers(0, CatalogSize.of(catalog.size).codebook_size, catalog.codes.shape)

    class Given:  # a quantizer that gives the codes drawn before
        input_dim, codebook_size = 4, CatalogSize.of(catalog.size).codebook_size
        turn = 0

        def encode(self, embeddings: np.ndarray) -> np.ndarray:
            self.turn += 1
            return codes[self.turn : self.turn + 1]

    recommender.tokenizer.quantizer = Given()
    row = {"title": "w1 w2", "brand": "brand 1", "categories": "group 1 > part 2", "price": 3.5}
    added = iter(range(100))

    def turn() -> None:
        number = next(added)
        if remove:
            recommender.remove_items([f"item-{catalog.size // 2 + number}"])
        else:
            recommender.add_items([f"new-{number}"], table=[row], embeddings=np.ones((1, 4), dtype=np.float32))

    return times(turn)


@stage("token embeddings initialized, hashed prefixes", tokens="hashed_prefixes")
@stage("token embeddings initialized")
def initialize(catalog: MadeCatalog, tokens: str | None = None) -> Work:
    tokenizer = catalog.tokenizer(tokens or CatalogSize.of(catalog.size).tokens)
    model = TigerT5(t5_config(tokenizer, d_model=256, num_layers=2, d_ff=512))
    vectors = np.random.default_rng(7).standard_normal((catalog.size, 256), dtype=np.float32)
    return lambda: init_token_embeddings(model, tokenizer, vectors[:, :96], vectors[:, 96:])


@stage("vectors of the log")
def log_vectors(catalog: MadeCatalog) -> Work:
    train = catalog.train
    return lambda: cooccurrence_vectors(train, catalog.size, 96)


@stage("TF-IDF vectors of the texts")
def words(catalog: MadeCatalog) -> Work:
    texts = catalog.texts
    return lambda: tfidf_vectors(texts, 96)


@stage("LSA, fit")
def fit_lsa(catalog: MadeCatalog) -> Work:
    texts = catalog.texts
    return lambda: LSAEncoder.fit(texts, 256)


@stage("LSA, encode")
def encode_lsa(catalog: MadeCatalog) -> Work:
    texts = catalog.texts
    encoder = LSAEncoder.fit(texts[:10_000], 256)
    return lambda: encoder.encode(texts)


@stage("codes fitted to texts and log")
def fit_codes(catalog: MadeCatalog) -> Work:
    vectors = LSAEncoder.fit(catalog.texts[:30_000], 128).encode(catalog.texts)
    log = cooccurrence_vectors(catalog.train, catalog.size)
    sizes = CatalogSize.of(catalog.size)

    def fit() -> dict:
        tokenizer = SemanticIdTokenizer.fit(
            vectors,
            catalog.item_ids,
            num_codebooks=sizes.num_codebooks,
            codebook_size=sizes.codebook_size,
            quantizer="residual-kmeans",
            cooccurrence=Cooccurrence(log, {"shuffle_ties": None}),
            progress=False,
        )
        return {"beyond_first_of_tuple": round(float((tokenizer.semantic_ids[:, -1] > 0).mean()), 4)}

    return fit


@stage("quantizer, encode")
def encode_codes(catalog: MadeCatalog) -> Work:
    vectors = np.random.default_rng(8).standard_normal((catalog.size, 128), dtype=np.float32)
    quantizer = ResidualKMeans.fit(vectors[:20_000], 3, 256, progress=False)
    return lambda: quantizer.encode(vectors)


@stage("training step of 128 targets, prefixes that sum over items", tokens="prefixes", output_softmax="items")
@stage("training step of 128 targets, hashed prefixes", tokens="hashed_prefixes")
@stage("training step of 128 targets, forward and backward")
def training_step(catalog: MadeCatalog, tokens: str | None = None, output_softmax: str | None = None) -> Work:
    tokenizer = catalog.tokenizer(tokens or CatalogSize.of(catalog.size).tokens)
    config = t5_config(tokenizer, d_model=256, num_layers=2, d_ff=512, output_softmax=output_softmax)
    model = TigerT5(config).train()
    trie = SemanticIdTrie.build(tokenizer.token_table)
    examples = TrainingExamples(catalog.train.select(np.arange(14)))
    collator = TrainingCollator(
        tokenizer, trie if tokenizer.tokens in PREFIX_KINDS else None, sums_items=output_softmax == "items"
    )
    batch = collator([examples[place] for place in range(14)])

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch)["loss"]
        loss.backward()

    def run() -> dict:
        return times(step)() | {"widest": trie.widths, "vocabulary": model.config.vocab_size}

    return run


@stage("baselines, one user each")
def baselines(catalog: MadeCatalog) -> Work:
    hybrid, history = Hybrid().fit(catalog.train, catalog.texts), some_histories(catalog, 1)
    return times(lambda: [one.recommend(history) for one in hybrid.baselines().values()])


@stage("rows of ids")
def ids(catalog: MadeCatalog) -> Work:
    tokenizer = catalog.tokenizer("codes")
    return lambda: tokenizer.rows(catalog.item_ids)


@stage("rows of twenty ids")
def few_ids(catalog: MadeCatalog) -> Work:
    tokenizer = catalog.tokenizer("codes")
    tokenizer.rows(catalog.item_ids[:1])
    return times(lambda: tokenizer.rows(catalog.item_ids[100:120]))


@stage("app, start of the catalog")
def app_start(catalog: MadeCatalog) -> Work:
    tokenizer, items = catalog.tokenizer("codes"), catalog.items
    return lambda: CodeTree(tokenizer, items)


@stage("app, one search")
def app_search(catalog: MadeCatalog) -> Work:
    tree = CodeTree(catalog.tokenizer("codes"), catalog.items)
    return times(lambda: tree.search("w7342 w1"))


@stage("memory")
def memory(catalog: MadeCatalog) -> dict[str, Work]:
    made: dict[str, ItemMemory] = {}
    vectors = np.random.default_rng(3).standard_normal((catalog.size, 64), dtype=np.float32)
    texts, groups, train = catalog.texts, catalog.codes[:, 0], catalog.train
    one, many = some_histories(catalog, 1), some_histories(catalog, 16)
    share = sparse.csr_matrix(([1.0], ([0], [0])), shape=(1, catalog.size), dtype=np.float32)
    return {
        "fit": lambda: made.setdefault("all", fit_memory(train, texts, vectors, groups, True)) and None,
        "one request": times(lambda: made["all"].mass(one)),
        "a batch of 16": times(lambda: made["all"].mass(many)),
        "add one item": lambda: made["all"].extended(share),
    }


@stage("dataset, load")
def load(catalog: MadeCatalog) -> Work:
    folder = Path(tempfile.mkdtemp())
    pq.write_table(catalog.items, folder / "items.parquet")
    users = pa.array(np.char.add("u", catalog.train.users.astype(str)))
    ids = pa.array(catalog.item_ids).take(pa.array(catalog.train.items))
    log = {"user_id": users, "item_id": ids, "timestamp": catalog.train.timestamps}
    pq.write_table(pa.table(log), folder / "interactions.parquet")
    del users, ids, log

    def run() -> LeaveOneOut:
        return RecommendationData.load(folder).leave_one_out()

    return run


@stage("tokenizer of codes")
def tokenizer_of_codes(catalog: MadeCatalog) -> Work:
    assert len(catalog.codes) and len(catalog.item_ids)
    return lambda: catalog.tokenizer("codes")


@stage("trie")
def build_trie(catalog: MadeCatalog) -> Work:
    table = catalog.tokenizer("codes").token_table
    return lambda: SemanticIdTrie.build(table)


@stage("search, a batch of 16")
def search(catalog: MadeCatalog) -> Work:
    tokenizer = catalog.tokenizer("codes")
    trie = SemanticIdTrie.build(tokenizer.token_table)
    model = TigerT5(t5_config(tokenizer, d_model=256, num_layers=2, d_ff=512)).eval()
    rows = np.random.default_rng(9).integers(0, catalog.size, (16, 10))
    histories = torch.from_numpy(tokenizer.encode_history(rows))
    return times(lambda: beam_search(model, trie, histories, 20))
