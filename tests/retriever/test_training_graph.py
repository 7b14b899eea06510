"""Training steps as CUDA graphs: what they refuse, and that they train as eager steps do."""

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from tiger.data.sequences import Sequences
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.config import t5_config
from tiger.retriever.dataset import TrainingExamples
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

SMALL = dict(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1, dropout_rate=0.0)


def trained(folder, graphs, tokens="codes", **settings):
    """Losses by step of a small training on the machine's own device."""
    random = np.random.default_rng(0)
    codes = random.integers(8, size=(60, 2))
    tokenizer = SemanticIdTokenizer(codes, [str(row) for row in range(60)], 8).with_tokens(tokens)
    torch.manual_seed(0)
    model = TigerT5(t5_config(tokenizer, **SMALL))
    sequences = Sequences.from_rows([random.integers(60, size=5 + user % 3) for user in range(40)])
    values = dict(output_dir=folder, max_steps=12, per_device_train_batch_size=32, logging_steps=1, report_to="none")
    args = TrainingArguments(**values | {"save_strategy": "no", "disable_tqdm": True} | settings)
    trainer = TigerTrainer(
        model,
        args,
        TrainingExamples(sequences),
        processing_class=tokenizer,
        cuda_graphs=graphs,
        muon_learning_rate=1e-3,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_other_devices_train_as_without(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert trained(tmp_path / "graphs", True) == trained(tmp_path / "eager", False)


def test_settings_that_graphs_cannot_replay_are_refused(tmp_path):
    with pytest.raises(DataError, match="tokens: prefixes don.t make"):
        trained(tmp_path, True, tokens="prefixes")
    with pytest.raises(DataError, match="gradient accumulation"):
        trained(tmp_path, True, gradient_accumulation_steps=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_losses_are_those_of_eager_steps(tmp_path):
    graphs, eager = (trained(tmp_path / str(way), way, bf16=True) for way in (True, False))
    np.testing.assert_allclose(graphs, eager, rtol=0.02)
