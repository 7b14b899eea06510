import json
import warnings

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from tests.conftest import make_histories, make_model, make_tokenizer, target_logits
from tiger.retriever.config import RetrieverConfig, is_causal, retriever_config, t5_config
from tiger.retriever.data_collator import child_targets
from tiger.retriever.model import TigerT5, _dropout, next_item_loss
from tiger.semantic_ids.trie import SemanticIdTrie


def batch(tokenizer, lengths, targets, seed=0):
    """Histories and ``targets`` random target items a row."""
    histories = make_histories(tokenizer, lengths, seed)
    rows = torch.randint(0, len(tokenizer), (len(lengths), targets), generator=torch.Generator().manual_seed(seed))
    return histories, torch.from_numpy(tokenizer.encode(rows.numpy()))


@pytest.mark.parametrize("projection", ["relu", "gated-gelu"])
def test_one_target_equals_transformers(projection):
    tokenizer = make_tokenizer(50)
    config = make_model(tokenizer, history_attention="full").config.to_dict() | {"feed_forward_proj": projection}
    for derived in ("dense_act_fn", "is_gated_act"):
        config.pop(derived, None)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**config)).eval()
    histories, labels = batch(tokenizer, [3, 1, 5], 1)
    visible = torch.tensor([[3], [1], [5]])
    ours = next_item_loss(model, histories, visible, labels)
    torch.testing.assert_close(
        TigerT5.from_t5(model)(histories, num_visible_items=visible, labels=labels)["loss"], ours
    )
    theirs = model(input_ids=histories, attention_mask=histories.ne(0).long(), labels=labels[:, 0]).loss
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    theirs.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_causal_encoder_equals_transformers_with_the_mask_spelt_out():
    tokenizer = make_tokenizer(50)
    model = make_model(tokenizer)
    histories, labels = batch(tokenizer, [4, 4], 1)
    items = torch.arange(16) // 4
    mask = (items[None, :] <= items[:, None]).expand(2, 1, 16, 16)
    encoded = model.encoder(input_ids=histories, attention_mask=mask)
    theirs = model(encoder_outputs=encoded, labels=labels[:, 0]).logits
    ours = target_logits(model, histories, torch.full((2, 1), 4), labels)
    torch.testing.assert_close(ours, theirs.flatten(0, 1), atol=2e-5, rtol=1e-4)


def test_shared_targets_equal_one_prefix_at_a_time():
    tokenizer = make_tokenizer(50)
    model = make_model(tokenizer)
    histories, labels = batch(tokenizer, [6, 4], 4)
    visible = torch.tensor([[3, 4, 5, 6], [1, 2, 3, 4]])
    together = target_logits(model, histories, visible, labels).view(2, 4, 4, -1)
    for row in range(2):
        for target in range(4):
            seen = visible[row, target]
            alone = target_logits(
                model,
                histories[row : row + 1, : 4 * seen],
                seen.view(1, 1),
                labels[row : row + 1, target : target + 1],
            )
            torch.testing.assert_close(together[row, target], alone, atol=2e-5, rtol=1e-4)


def test_padding_targets_do_not_count():
    tokenizer = make_tokenizer(50)
    model = make_model(tokenizer)
    histories, labels = batch(tokenizer, [3, 3], 2)
    visible = torch.tensor([[2, 3], [3, 0]])
    labels[1, 1] = -100
    loss = next_item_loss(model, histories, visible, labels)
    logits = target_logits(model, histories, visible, labels).view(2, 2, 4, -1)
    chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = -(chosen[0].sum() + chosen[1, 0].sum()) / 12
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(next_item_loss(model, histories, visible, labels, 24), expected / 2)


def test_many_targets_need_causal_attention():
    tokenizer = make_tokenizer(50)
    model = make_model(tokenizer, history_attention="full")
    histories, labels = batch(tokenizer, [3], 2)
    with pytest.raises(ValueError, match="causal"):
        next_item_loss(model, histories, torch.tensor([[2, 3]]), labels)


def test_bfloat16_autocast_stays_close():
    tokenizer = make_tokenizer(50)
    model = make_model(tokenizer)
    histories, labels = batch(tokenizer, [4, 2], 1)
    visible = torch.tensor([[4], [2]])
    exact = next_item_loss(model, histories, visible, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = next_item_loss(model, histories, visible, labels)
    assert abs(exact - rounded) < 0.02 * exact


def test_dropout_keeps_its_rate_and_mean_and_is_seeded():
    model = make_model(make_tokenizer(10), dropout_rate=0.25).train()
    ones = torch.ones(200, 1000)
    torch.manual_seed(0)
    first = _dropout(model, ones)
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert first.mean().item() == pytest.approx(1.0, abs=0.01)
    second = _dropout(model, ones)
    assert first.ne(second).float().mean() == pytest.approx(2 * 0.25 * 0.75, abs=0.01)
    torch.manual_seed(0)
    assert torch.equal(first, _dropout(model, ones))
    assert torch.equal(_dropout(model.eval(), ones), ones)


def plain_logits(model, histories, labels):
    """As plain transformers has them: [B * L, vocabulary]."""
    return model(input_ids=histories, attention_mask=histories.ne(0).long(), labels=labels[:, 0]).logits.flatten(0, 1)


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_checkpoint_opens_in_plain_transformers_and_agrees_where_it_says_so(tmp_path, attention):
    """Full attention and code tokens: the same probabilities. Else only our class gives those of training."""
    tokenizer = make_tokenizer(50)
    model = make_model(tokenizer, history_attention=attention)
    histories, labels = batch(tokenizer, [4, 4], 1)
    visible = torch.full((2, 1), 4)
    expected = target_logits(model, histories, visible, labels).log_softmax(-1)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == ["TigerT5"] and saved["model_type"] == "tiger-t5" and saved["use_cache"]
    assert saved["tiger_config"] == {
        "history_attention": attention,
        "history_item_length": 4,
        "output_softmax": "vocabulary",
        "semantic_ids": tokenizer.fingerprint,
    }
    plain, report = T5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and plain.config.eos_token_id is None
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, plain.state_dict()[name])
    ours = TigerT5.from_pretrained(tmp_path)
    assert type(ours) is TigerT5 and retriever_config(ours) == retriever_config(model) == retriever_config(plain)
    for reopened in (ours, plain):  # the free functions read the settings of either class
        found = target_logits(reopened, histories, visible, labels).log_softmax(-1)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(plain_logits(ours, histories, labels).log_softmax(-1), expected, atol=2e-5, rtol=1e-4)
    found = plain_logits(plain, histories, labels).log_softmax(-1)
    if attention == "full":
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    else:
        assert (found - expected).abs().max() > 1e-3


def test_settings_of_older_checkpoints_are_read(tmp_path):
    tokenizer = make_tokenizer(20, tokens="prefixes")
    config = t5_config(tokenizer)
    settings = RetrieverConfig.from_t5(config)
    flat = {name: value for name, value in config.to_dict().items() if name != "tiger_config"}
    flat |= {"history_attention": "causal", "history_item_length": 1, "token_choice": "siblings"}
    flat["semantic_ids"] = tokenizer.fingerprint
    T5Config(**flat).save_pretrained(tmp_path)
    old = T5Config.from_pretrained(tmp_path)
    assert not hasattr(old, "tiger_config") and RetrieverConfig.from_t5(old) == settings
    model = TigerT5(old)
    assert model.config.tiger_config == settings.to_dict() and not hasattr(model.config, "token_choice")
    assert old.token_choice == "siblings"  # the caller's object is as it was
    model.save_pretrained(tmp_path)
    assert "token_choice" not in json.loads((tmp_path / "config.json").read_text())
    assert RetrieverConfig.from_t5(T5Config(**(flat | {"token_choice": "all"}))).output_softmax == "vocabulary"
    assert RetrieverConfig.from_t5(T5Config()) == RetrieverConfig()


@pytest.mark.parametrize(
    "wrong",
    [{"history_attention": "sideways"}, {"output_softmax": "siblings"}, {"history_item_length": 0}, {"colour": "red"}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        is_causal(make_model(make_tokenizer(10)).from_t5(T5ForConditionalGeneration(T5Config(tiger_config=wrong))))


def test_a_plain_t5_shares_its_weights():
    tokenizer = make_tokenizer(20)
    plain = T5ForConditionalGeneration(t5_config(tokenizer, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=32))
    model = TigerT5.from_t5(plain)
    assert type(plain) is T5ForConditionalGeneration and model.config == plain.config and model.training
    ours, theirs = dict(model.named_parameters()), dict(plain.named_parameters())
    assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
    assert model.lm_head.weight is model.shared.weight and model.device.type == "cpu"
    assert not TigerT5.from_t5(plain.eval()).training


def test_old_arguments_work_with_a_warning():
    tokenizer = make_tokenizer(20, tokens="prefixes")
    model, trie = make_model(tokenizer), SemanticIdTrie.build(tokenizer.token_table)
    histories, labels = batch(tokenizer, [3, 1], 1)
    visible, targets = torch.tensor([[3], [1]]), torch.from_numpy(tokenizer.decode(labels[:, 0].numpy()))
    children = child_targets(trie, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = next_item_loss(model, histories, visible, labels, children=children)
    with pytest.warns(DeprecationWarning, match="visible of next_item_loss is now num_visible_items"):
        found = next_item_loss(model, histories, visible=visible, labels=labels, siblings=children)
    assert torch.equal(found, expected)
    with pytest.warns(DeprecationWarning, match="siblings of TigerT5.forward is now children"):
        found = model(input_ids=histories, visible=visible, labels=labels, siblings=children)
    assert torch.equal(found["loss"], expected)
    with pytest.raises(ValueError, match="needs children"):
        next_item_loss(model, histories, visible, labels)


SHAPES = (([4, 2, 3], 2, 0), ([6, 5], 3, 1), ([3, 3, 3, 2], 2, 2))  # lengths of histories, targets, seed


# To make the backward graph as well takes half a minute a shape: it is made for one.
@pytest.mark.parametrize(
    "tokens, softmax, backend, shapes",
    [
        ("codes", None, "aot_eager", SHAPES[:1]),
        ("codes", None, "eager", SHAPES),
        ("prefixes", None, "eager", SHAPES),
        ("prefixes", "items", "eager", SHAPES),
    ],
)
def test_compiles_to_one_graph(tokens, softmax, backend, shapes):
    """Training steps of several shapes: no graph break, and the loss and gradients of eager mode."""
    tokenizer = make_tokenizer(30, tokens=tokens)
    # One layer: each more is traced like the first, ten seconds of it.
    model = make_model(tokenizer, num_layers=1, output_softmax=softmax).train()
    trie = SemanticIdTrie.build(tokenizer.token_table)
    torch._dynamo.reset()
    compiled = torch.compile(next_item_loss, dynamic=True, backend=backend, fullgraph=True)
    counters = torch._dynamo.utils.counters
    counters.clear()
    for lengths, targets, seed in shapes:
        histories, labels = batch(tokenizer, lengths, targets, seed)
        visible = torch.tensor([[max(1, length - targets + 1 + n) for n in range(targets)] for length in lengths])
        children = None
        if tokens != "codes":
            rows = torch.from_numpy(tokenizer.decode(labels.flatten(0, 1).numpy()))
            children = child_targets(trie, rows, softmax == "items")
        gradients = []
        for loss_of in (next_item_loss, compiled):
            model.zero_grad()
            loss = loss_of(model, histories, visible, labels, children=children)
            loss.backward()
            gradients.append([loss.detach()] + [p.grad.clone() for p in model.parameters()])
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    # With fullgraph a break is an error; the count says how often a shape made another graph.
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] <= 3
