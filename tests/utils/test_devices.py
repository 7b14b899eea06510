"""Devices without float64 (Apple's GPUs): nothing on the way from vectors to answers asks for it."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TrainingArguments

from tests.conftest import make_model
from tests.retriever.test_trainer import cycle_data
from tiger.quantizers.kmeans import kmeans
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.quantizers.rqvae import RQVAE
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples
from tiger.retriever.initialization import init_token_embeddings
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils import devices


class WithoutFloat64(TorchDispatchMode):
    """An error for every float64 tensor, as on such a device.

    What is drawn or averaged on the host may be float64 until it is moved: one number, what its generator draws, an
    array that is only taken over from numpy, and casts to another type.
    """

    MADE = (torch.ops.aten.lift_fresh.default, torch.ops.aten.rand.generator)
    HOST = (torch.ops.aten._to_copy.default, *MADE)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [] if function in self.HOST else tree_leaves((args, kwargs))
        made = [] if function in self.MADE else tree_leaves(result)
        for tensor in (*given, *made):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.numel() > 1:
                raise TypeError(f"{function}: this device has no float64")
        return result


@pytest.fixture
def without_float64(monkeypatch):
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", ("cpu",))
    with WithoutFloat64():
        yield


VECTORS = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)


def test_the_type_to_sum_in():
    assert devices.widest_float("mps") == devices.widest_float(torch.device("mps", 0)) == torch.float32
    assert (
        devices.widest_float("cpu") == devices.widest_float("cuda:1") == devices.widest_float("meta") == torch.float64
    )


def test_the_fake_device_notices(without_float64):
    with pytest.raises(TypeError, match="no float64"):
        torch.ones(3).double()
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(3).copy_(torch.from_numpy(np.ones(3)))


def test_k_means_sums_in_float64_where_it_can(monkeypatch):
    """The same seeds in float32, on these points."""
    points = torch.from_numpy(VECTORS)
    wide = kmeans(points, 16)
    with pytest.raises(TypeError, match="no float64"), WithoutFloat64():
        kmeans(points, 16)
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", ("cpu",))
    with WithoutFloat64():
        torch.testing.assert_close(kmeans(points, 16), wide)


def test_quantizers(without_float64):
    for quantizer in (
        ResidualKMeans.fit(VECTORS, num_codebooks=2, codebook_size=16),
        RQVAE.fit(VECTORS, num_codebooks=2, codebook_size=16, steps=60, hidden_sizes=[16], latent_dim=4),
    ):
        assert quantizer.encode(VECTORS).shape == (300, 2)


def test_training_and_answers(without_float64, tmp_path):
    data = cycle_data()
    tokenizer = SemanticIdTokenizer.fit(VECTORS[:12], [f"i{row}" for row in range(12)], 2, 4, steps=60)
    model = make_model(tokenizer)
    init_token_embeddings(model, tokenizer, np.random.default_rng(0).standard_normal((12, 16)))
    trainer = TigerTrainer(
        model,
        TrainingArguments(str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no"),
        TrainingExamples(data.drop_last(1)),
        EvaluationExamples(data.drop_last(1), data.items[data.offsets[1:] - 1]),
        tokenizer,
        num_beams=10,
        embedding_learning_rate=0.01,
        muon_learning_rate=0.01,
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_recall@10"] <= 1
    assert trainer.recommender().recommend([["i1", "i2"]], k=3)[1].shape == (1, 3)
