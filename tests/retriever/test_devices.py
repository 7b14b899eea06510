"""What an accelerator is asked and sent: a search and a training step wait for it at most once, at their end.

The path of an accelerator runs here in two ways: on PyTorch's ``meta`` device, which has no values to wait for, so
that asking for one is an error; and on the CPU with ``devices.is_host`` denied, so that its answers can be compared.
"""

from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments

from tests.conftest import make_histories, make_model, make_recommender, make_tokenizer
from tiger.data.sequences import Sequences
from tiger.quantizers.kmeans import kmeans
from tiger.quantizers.rqvae import RQVAE, RQVAEConfig
from tiger.retriever import inference_model
from tiger.retriever.beam_search import beam_search
from tiger.retriever.child_softmax import ChildTargets
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import TrainingExamples
from tiger.retriever.inference_model import packed, vectors_at_once
from tiger.retriever.model import fuses_attention, next_item_loss
from tiger.retriever.optimizer import MuonAdamW
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.retriever import RetrieverArguments
from tiger.utils import devices


class Questions(TorchDispatchMode):
    """Counts what makes a host wait: values that are read, shapes that depend on values, tensors that are sent."""

    def __init__(self):
        super().__init__()
        self.counts: Counter = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        if name in ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "unique2"):
            self.counts[name] += 1
        if any(index is not None and index.dtype == torch.bool for index in indices):
            self.counts["index by bool"] += 1
        places = {one.device.type for one in [*tensors, *(i for i in indices if i is not None)] if one.ndim}
        if len(places) > 1:
            self.counts["sent"] += 1
        self.counts["operators"] += 1
        return operator(*args, **(kwargs or {}))

    @property
    def waits(self) -> dict[str, int]:
        return {name: count for name, count in self.counts.items() if name != "operators"}


@pytest.fixture
def no_host(monkeypatch):
    """Take the path of an accelerator on the CPU."""
    monkeypatch.setattr(devices, "is_host", lambda device: False)


def on_meta(tokens: str, **options):
    tokenizer = make_tokenizer(60, tokens=tokens)
    trie = SemanticIdTrie.build(tokenizer.token_table).to("meta")
    return tokenizer, trie, make_model(tokenizer, **options).to("meta")


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes", "default"])
@pytest.mark.parametrize("given", ["plain", "excluded", "filtered", "both", "unseen", "sampled"])
def test_a_search_never_waits(tokens, given):
    of_default = {"output_softmax": "items", "recent_items": 32} if tokens == "default" else {}
    tokenizer, trie, model = on_meta("prefixes" if of_default else tokens, **of_default)
    histories = make_histories(tokenizer, [3, 5, 2]).to("meta")
    excluded = torch.zeros(3, 4, dtype=torch.long, device="meta")
    allowed = torch.zeros(60, dtype=torch.bool, device="meta")
    options = {
        "plain": {},
        "excluded": {"excluded": excluded},
        "filtered": {"allowed_items": allowed},
        "both": {"excluded": excluded, "allowed_items": allowed},
        "unseen": {"allowed_items": allowed, "scored_levels": tokenizer.num_codebooks},
        "sampled": {"temperature": 1.5},
    }[given]
    with Questions() as asked:
        found = beam_search(model, trie, histories, 10, k=5, **options)
    assert found.rows.shape == (3, 5) and found.rows.device.type == "meta"
    assert asked.waits == {}


def test_questions_are_counted():
    values = torch.arange(4)
    with Questions() as asked:
        values[values > 1]
        int(values.sum())
        torch.equal(values, values)
        values.nonzero()
    assert {"index by bool", "_local_scalar_dense", "equal", "nonzero"} <= set(asked.waits)


def test_operators_of_a_search_do_not_grow_with_its_batch(no_host):
    """On an accelerator: one gather of all users' children, where a CPU takes a few users at a time."""
    tokenizer = make_tokenizer(60, tokens="prefixes")
    trie, model = SemanticIdTrie.build(tokenizer.token_table), make_model(tokenizer)
    found = []
    for users in (2, 64):
        histories = make_histories(tokenizer, [4] * users)
        beam_search(model, trie, histories, 10)  # position biases are kept
        with Questions() as asked:
            beam_search(model, trie, histories, 10)
        found.append(asked.counts["operators"])
    assert found[0] == found[1]


def test_the_children_of_a_batch_are_gathered_at_once_by_device(monkeypatch):
    assert vectors_at_once(torch.device("cpu")) == 1 << 22
    assert vectors_at_once(torch.device("cuda")) == 1 << 28
    # 1,024 users, 50 beams, 256 children of 128 numbers: 7 parts, where a CPU's limit makes 1,024.
    assert 1024 * 50 * 256 * 128 / vectors_at_once(torch.device("cuda")) < 7


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_an_accelerator_finds_what_a_cpu_finds(tokens, attention, monkeypatch):
    tokenizer = make_tokenizer(60, tokens=tokens)
    trie = SemanticIdTrie.build(tokenizer.token_table)
    model = make_model(tokenizer, history_attention=attention)
    histories = make_histories(tokenizer, [3, 0, 7, 1] * 6)
    excluded = torch.arange(24 * 3).view(24, 3) % 60
    before = beam_search(model, trie, histories, 12, excluded=excluded)
    monkeypatch.setattr(devices, "is_host", lambda device: False)
    after = beam_search(model, trie, histories, 12, excluded=excluded)
    torch.testing.assert_close(after.scores, before.scores, rtol=1e-4, atol=1e-5)
    assert (after.rows == before.rows).float().mean() > 0.99


def test_many_users_are_answered_alike_by_batches_that_overlap(no_host):
    tiger = make_recommender(40)
    histories = [[f"item-{(user * 7 + at) % 40}" for at in range(1 + user % 5)] for user in range(23)]
    one = tiger.recommend(histories, k=5, num_beams=10, batch_size=100)
    several = tiger.recommend(histories, k=5, num_beams=10, batch_size=4)
    assert one[0] == several[0]
    np.testing.assert_allclose(one[1], several[1], rtol=1e-4)
    assert tiger.recommend([], k=5)[0] == []


def test_a_failure_of_collation_reaches_the_caller(no_host, monkeypatch):
    tiger = make_recommender(40)
    monkeypatch.setattr(devices, "pinned", lambda tensor, device: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiger.recommend([["item-1"]] * 9, k=5, num_beams=10, batch_size=2)


def test_steps_of_an_optimizer_renew_the_inference_copy(no_host):
    """Fused optimizers raise no version counter, and an accelerator is not asked for values."""
    tokenizer = make_tokenizer(40)
    model = make_model(tokenizer)
    trie, histories = SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [3])
    optimizer = MuonAdamW([{"params": list(model.parameters())}], lr=0.1, fused=True)
    first = packed(model, torch.float32)
    before = beam_search(model, trie, histories, 5).scores
    assert packed(model, torch.float32) is first
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert packed(model, torch.float32) is not first
    assert not torch.equal(before, beam_search(model, trie, histories, 5).scores)
    second = packed(model, torch.float32)
    with torch.no_grad():
        model.shared.weight.mul_(0.5)
    assert packed(model, torch.float32) is not second


def test_only_a_cpu_compares_values(monkeypatch):
    tokenizer = make_tokenizer(40)
    model = make_model(tokenizer)
    first = packed(model, torch.float32)
    model.shared.weight.data.mul_(2)  # raises no counter
    assert packed(model, torch.float32) is not first
    second = packed(model, torch.float32)
    with Questions() as asked:
        monkeypatch.setattr(devices, "is_host", lambda device: False)
        inference_model.packed(model, torch.float32)
        inference_model.packed(model, torch.float32)
    assert asked.waits == {} and second is not None


@pytest.mark.parametrize("tokens, attention", [("codes", "causal"), ("codes", "full"), ("prefixes", "causal")])
def test_a_training_step_never_waits(tokens, attention):
    tokenizer, _, model = on_meta(tokens, history_attention=attention, dropout_rate=0.1)
    trie = SemanticIdTrie.build(tokenizer.token_table)
    random = np.random.default_rng(0)
    sequences = Sequences.from_rows([random.integers(60, size=6) for _ in range(4)])
    examples = TrainingExamples(sequences, shared=attention == "causal")
    collate = TrainingCollator(tokenizer, trie if tokens != "codes" else None)
    batch = {
        name: [level.to("meta") for level in values] if isinstance(values, list) else values.to("meta")
        for name, values in collate([examples[at] for at in range(4)]).items()
    }
    model.train()
    with Questions() as asked:
        next_item_loss(model, **batch).backward()
    assert asked.waits == {}


def test_kmeans_waits_once_an_iteration_not_once_a_seed(no_host):
    points = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
    with Questions() as asked:
        kmeans(points, 64, iterations=20)
    # 63 seeds are drawn without a question; `moved` and `without_points` are two numbers of one list.
    assert asked.counts["equal"] == 0 and asked.counts["_local_scalar_dense"] <= 2 * 20
    assert asked.counts["nonzero"] <= 20


def test_kmeans_is_about_as_good_without_questions(monkeypatch):
    points = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    on_host = kmeans(points, 32, seed=5)
    monkeypatch.setattr(devices, "is_host", lambda device: False)
    torch.testing.assert_close(kmeans(points, 32, seed=5), on_host, rtol=1e-3, atol=1e-3)


def test_an_rqvae_asks_once_whether_its_codebooks_are_there():
    model = RQVAE(RQVAEConfig(input_dim=8, hidden_sizes=(8,), latent_dim=4, codebook_size=4, num_codebooks=2))
    points = torch.randn(16, 8)
    with Questions() as asked:
        for _ in range(5):
            assert model(points).codes is None
    assert asked.counts["_local_scalar_dense"] == 1
    model.initialize_codebooks(points)
    with Questions() as asked:
        for _ in range(5):
            assert model(points).codes is not None
    assert asked.counts["_local_scalar_dense"] == 1
    again = RQVAE(model.config)
    assert again(points).codes is None
    again.load_state_dict(model.state_dict())
    assert again(points).codes is not None


def test_precision_is_that_of_the_device_unless_it_is_said(monkeypatch):
    cpu = torch.device("cpu")

    def dtype(bf16):
        with devices.products_in(cpu, bf16):
            return devices.autocast_dtype(cpu)

    assert (dtype(None), dtype(True), dtype(False)) == (None, torch.bfloat16, None)
    with torch.autocast("cpu", torch.float16):  # what a caller has chosen stays
        assert (dtype(None), dtype(False)) == (torch.float16, None)
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: True)  # as on a GPU
    assert (dtype(None), dtype(True), dtype(False)) == (torch.bfloat16, torch.bfloat16, None)


def test_the_search_is_in_the_precision_that_is_asked_for(monkeypatch):
    tiger = make_recommender(40)
    dtypes = []
    right = inference_model.packed
    monkeypatch.setattr(
        "tiger.retriever.beam_search.packed", lambda model, dtype: dtypes.append(dtype) or right(model, dtype)
    )
    for bf16 in (None, True, False):
        tiger.recommend([["item-1"]], k=3, num_beams=5, bf16=bf16)
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: True)
    for bf16 in (None, False):
        tiger.recommend([["item-1"]], k=3, num_beams=5, bf16=bf16)
    low, high = torch.bfloat16, torch.float32
    assert dtypes == [high, low, high, low, high]


def test_batches_are_larger_on_an_accelerator():
    assert devices.default_batch_size(torch.device("cpu"), 1000) == 64
    found = [devices.default_batch_size(torch.device("cuda"), beams) for beams in (10, 50, 1000, 1_000_000)]
    assert found == [1024, 1024, 51, 1]  # as many beams at a time as 1,024 users with 50 have


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_fused_attention_trains_as_its_parts_do(attention, monkeypatch):
    tokenizer = make_tokenizer(60)
    random = np.random.default_rng(0)
    sequences = Sequences.from_rows([random.integers(60, size=size) for size in (3, 6, 6)])
    examples = TrainingExamples(sequences, shared=False)
    batch = TrainingCollator(tokenizer)([examples[at] for at in range(len(examples))])
    found = []
    for on_host in (True, False):
        monkeypatch.setattr(devices, "is_host", lambda device, answer=on_host: answer)
        model = make_model(tokenizer, history_attention=attention)
        assert fuses_attention(model, torch.device("cpu")) == (attention == "full" and not on_host)
        loss = next_item_loss(model, **batch)
        loss.backward()
        bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
        found.append((loss.detach(), bias, model.shared.weight.grad))
    assert found[0][1].abs().max() > 0
    for one, other in zip(*found):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_fused_attention_drops_out_in_training_only(no_host, monkeypatch):
    rates = []
    right = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **options: rates.append(options["dropout_p"]) or right(*args, **options),
    )
    tokenizer = make_tokenizer(60)
    model = make_model(tokenizer, history_attention="full", dropout_rate=0.25)
    histories, targets = make_histories(tokenizer, [3, 2]), torch.from_numpy(tokenizer.encode(np.array([[1], [2]])))
    for training in (True, False):
        next_item_loss(model.train(training), histories, torch.tensor([[3], [2]]), targets)
    assert set(rates[: len(rates) // 2]) == {0.25} and set(rates[len(rates) // 2 :]) == {0.0}


def test_tables_of_children_can_be_pinned(monkeypatch):
    """A DataLoader pins what has a method of this name, and leaves other objects in pageable memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)  # a CPU build has none
    pinned = ChildTargets(torch.tensor([1]), torch.tensor([[2, 3]]), torch.tensor([0])).pin_memory()
    assert (pinned.places.item(), pinned.choices.tolist(), pinned.answers.item()) == (2, [[3, 4]], 1)


def test_the_overlay_for_a_gpu_has_settings_that_there_are():
    settings = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "gpu.yaml").read_text())
    known = {field.name for kind in (RetrieverArguments, TrainingArguments) for field in fields(kind)}
    assert set(settings) <= known and {"dataloader_num_workers", "cuda_graphs", "bf16"} <= set(settings)
