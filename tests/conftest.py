"""What several test files share: a random state, where the research data may lie, and small catalogues."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.buckets import bucket as bucket
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.config import t5_config
from tiger.retriever.model import TigerT5, target_states
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

LONGEST = {  # half a minute and more, alone on a core
    "tests/faults/test_chaos.py",
    "tests/recipes/test_paper_recipes.py",
    "tests/recipes/test_ranking_experiment.py",
    "tests/retriever/test_model.py",
    "tests/retriever/test_trainer_options.py",
    "tests/serving/test_gradio_app.py",
    "tests/test_docs.py",
    "tests/test_end_to_end.py",
    "tests/test_types.py",
    "tests/test_wheel.py",
    "tests/training/test_warm_start.py",
}


def pytest_configure(config: pytest.Config) -> None:
    """Leave random states to the hook below: pytest-randomly's own seed would be another one with every run."""
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The cores that this process may use, but at most four: each of `make test`'s processes holds two gigabytes."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files where several processes share the files out: one that is begun last makes the
    others wait."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.location[0] not in LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start every test, and the fixtures that it is the first to use, from one state, whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell the order, which the header does not where it is quiet."""
    if (seed := getattr(config.option, "randomly_seed", None)) is not None:
        terminalreporter.write_line(f"The order of the tests was that of --randomly-seed={seed}.")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that read it skip where it is absent."""
    path = Path(os.environ.get("TIGER_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"needs the data sets, not found in {path} (set TIGER_SHARED_DATA)")
    return path


def make_tokenizer(
    num_items: int, codebook_size: int = 8, num_codebooks: int = 3, seed: int = 0, tokens: str = "codes"
) -> SemanticIdTokenizer:
    """Random codes, so that some items collide."""
    codes = np.random.default_rng(seed).integers(0, codebook_size, (num_items, num_codebooks))
    return SemanticIdTokenizer(codes, [f"item-{row}" for row in range(num_items)], codebook_size, tokens=tokens)


def make_model(tokenizer: SemanticIdTokenizer, seed: int = 0, **options) -> TigerT5:
    """A tiny T5 with random weights, large enough ones that scores differ."""
    torch.manual_seed(seed)
    sizes = {
        "d_model": 16,
        "d_kv": 8,
        "num_heads": 2,
        "d_ff": 32,
        "num_layers": 2,
        "dropout_rate": 0.0,
        "hashed_rows": 50,
    }
    return TigerT5(t5_config(tokenizer, **{**sizes, **options})).eval()


def make_recommender(num_items: int, seed: int = 0, **parts) -> TigerRecommender:
    """Random codes and weights, without encoder, item table and ranker unless they are given."""
    tokenizer = make_tokenizer(num_items, seed=seed)
    return TigerRecommender(make_model(tokenizer, seed), tokenizer, **parts)


def make_histories(tokenizer: SemanticIdTokenizer, lengths: list[int], seed: int = 0) -> torch.Tensor:
    """Histories of these lengths as padded tokens [B, S]."""
    random = np.random.default_rng(seed)
    rows = np.full((len(lengths), max(max(lengths), 1)), -1)
    for row, length in zip(rows, lengths):
        row[:length] = random.integers(0, len(tokenizer), length)
    return torch.from_numpy(tokenizer.encode_history(rows))


def write_tables(folder: Path, items: dict[str, list], events: list[tuple]) -> Path:
    """A dataset directory: columns of items; events as user, item, time and, where they have it, rating."""
    folder.mkdir(parents=True)
    pq.write_table(pa.table(items), folder / "items.parquet")
    columns = zip(("user_id", "item_id", "timestamp", "rating"), map(list, zip(*events)))
    pq.write_table(pa.table(dict(columns)), folder / "interactions.parquet")
    return folder


def auc_error(labels: np.ndarray) -> float:
    """Standard error of the AUC of scores that know nothing of these labels, 0 or 1; other values are no labels."""
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    return ((positives + negatives + 1) / (12 * positives * negatives)) ** 0.5  # of the Mann-Whitney statistic


def target_logits(model: TigerT5, *batch: torch.Tensor) -> torch.Tensor:
    """Teacher-forced logits [B * T * L, vocabulary]; arguments as for ``next_item_loss``."""
    return model.lm_head(target_states(model, *batch)).flatten(0, -2)
