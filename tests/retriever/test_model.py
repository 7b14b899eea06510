import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from tests.conftest import make_histories, make_model, make_tokenizer, target_logits
from tiger.retriever.model import TigerT5, _dropout, next_item_loss


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


def test_checkpoint_is_a_plain_t5(tmp_path):
    tokenizer = make_tokenizer(50)
    model = make_model(tokenizer)
    model.__class__ = TigerT5
    model.save_pretrained(tmp_path)
    reopened, report = T5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert reopened.config.architectures == ["T5ForConditionalGeneration"]
    assert reopened.config.history_attention == "causal" and reopened.config.eos_token_id is None
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, reopened.state_dict()[name])
