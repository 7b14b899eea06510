import pytest
import torch
from transformers import T5ForConditionalGeneration

from tests.conftest import make_histories, make_model, make_tokenizer
from tiger.retriever.allowed_items import AllowedItems
from tiger.retriever.beam_search import beam_search, trie_generate
from tiger.retriever.config import sums_items
from tiger.retriever.data_collator import child_targets
from tiger.retriever.model import next_item_loss
from tiger.semantic_ids.trie import SemanticIdTrie


def setup(num_items, lengths, tokens="codes", **options):
    tokenizer = make_tokenizer(num_items, tokens=tokens)
    model = make_model(tokenizer, **options)
    return tokenizer, model, SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, lengths)


def score_all(model, tokenizer, history):
    """The log-probability of every item after one history, one by one, by teacher forcing: float32 [n]."""
    table = torch.from_numpy(tokenizer.encode(range(len(tokenizer))))
    trie = SemanticIdTrie.build(tokenizer.token_table)
    scores = []
    for row, tokens in enumerate(table):
        labels = tokens.view(1, 1, -1)
        visible = history.ne(0).sum(-1, keepdim=True) // tokenizer.history_depth
        children = None
        if tokenizer.tokens != "codes":
            children = child_targets(trie, torch.tensor([row]), sums_items(model))
        scores.append(-next_item_loss(model, history, visible, labels, 1, children))
    return torch.stack(scores).detach()


@pytest.mark.parametrize(
    "tokens, softmax", [("codes", None), ("prefixes", None), ("prefixes", "items"), ("hashed_prefixes", None)]
)
@pytest.mark.parametrize("attention, recent_items", [("causal", 0), ("causal", 3), ("full", 0), ("full", 3)])
def test_equals_scoring_every_item(attention, recent_items, tokens, softmax):
    options = {"history_attention": attention, "output_softmax": softmax, "recent_items": recent_items}
    tokenizer, model, trie, histories = setup(60, [3, 0, 5, 1], tokens, **options)
    beams = beam_search(model, trie, histories, num_beams=60)
    for row in range(len(histories)):
        length = max(int(histories[row].ne(0).sum()), tokenizer.history_depth)
        expected = score_all(model, tokenizer, histories[row : row + 1, :length])
        assert sorted(beams.rows[row].tolist()) == list(range(60))
        torch.testing.assert_close(beams.scores[row], expected[beams.rows[row]], atol=2e-5, rtol=0)
        assert beams.scores[row].diff().max() <= 0


@pytest.mark.parametrize("tokens", ["codes", "prefixes"])
@pytest.mark.parametrize("num_beams", [5, 20])
def test_equals_transformers_generate(num_beams, tokens):
    tokenizer, model, trie, histories = setup(400, [4, 2, 4], tokens, history_attention="full")
    table = tokenizer.token_table.tolist()
    follow: dict[tuple, set] = {}
    for row in table:
        for level in range(4):
            follow.setdefault(tuple(row[:level]), set()).add(row[level])
    output = model.generate(
        histories,
        attention_mask=histories.ne(0).long(),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=4,
        min_new_tokens=4,
        length_penalty=0.0,
        prefix_allowed_tokens_fn=lambda _, prefix: sorted(follow[tuple(prefix.tolist()[1:])]),
        renormalize_logits=tokens == "prefixes",  # among children, not among all tokens
        output_scores=True,
        return_dict_in_generate=True,
    )
    expected = tokenizer.decode(output.sequences[:, 1:].numpy()).reshape(3, num_beams)
    beams = beam_search(model, trie, histories, num_beams=num_beams)
    assert beams.rows.tolist() == expected.tolist()
    torch.testing.assert_close(beams.scores, output.sequences_scores.view(3, num_beams), atol=2e-5, rtol=0)


def test_excluded_rows_stay_out_and_cost_no_beam():
    tokenizer, model, trie, histories = setup(60, [3, 2])
    full = beam_search(model, trie, histories, num_beams=60)
    excluded = torch.tensor([[0, 1, 2, 1, -1], [5, -1, -1, -1, -1]])
    beams = beam_search(model, trie, histories, num_beams=60, excluded=excluded)
    for row, gone in enumerate([{0, 1, 2}, {5}]):
        expected = [item for item in full.rows[row].tolist() if item not in gone]
        assert beams.rows[row, : len(expected)].tolist() == expected
        assert beams.rows[row, len(expected) :].tolist() == [-1] * len(gone)
    everything_but_seven = torch.tensor([[item for item in range(60) if item != 7]]).expand(2, -1)
    beams = beam_search(model, trie, histories, num_beams=1, excluded=everything_but_seven)
    assert beams.rows.tolist() == [[7], [7]]


def test_long_histories_with_repeats_are_excluded_in_little_memory():
    tokenizer, model, trie, histories = setup(300, [3])
    excluded = torch.randint(0, 250, (1, 5000), generator=torch.Generator().manual_seed(0))
    beams = beam_search(model, trie, histories, num_beams=300, excluded=excluded)
    kept = set(range(300)) - set(excluded[0].tolist())
    assert set(beams.rows[beams.rows >= 0].tolist()) == kept


def test_more_beams_than_items():
    _, model, trie, histories = setup(10, [2])
    beams = beam_search(model, trie, histories, num_beams=500, k=20)
    assert sorted(beams.rows[0, :10].tolist()) == list(range(10))
    assert beams.rows[0, 10:].eq(-1).all() and beams.scores[0, 10:].isneginf().all()


def test_batch_does_not_change_answers():
    tokenizer, model, trie, histories = setup(200, [1 + row % 7 for row in range(1000)])
    together = beam_search(model, trie, histories, num_beams=10)
    for row in (0, 5, 999):
        alone = beam_search(model, trie, histories[row : row + 1], num_beams=10)
        assert alone.rows.tolist() == together.rows[row : row + 1].tolist()
        torch.testing.assert_close(alone.scores, together.scores[row : row + 1], atol=2e-5, rtol=0)


def test_sampling_is_without_replacement_and_follows_the_model():
    tokenizer, model, trie, histories = setup(12, [3])
    generator = torch.Generator().manual_seed(0)
    draws = 3000
    beams = beam_search(model, trie, histories.expand(draws, -1), num_beams=4, temperature=1.0, generator=generator)
    assert all(len(set(row)) == 4 for row in beams.rows.tolist())
    # The first of each sample is a plain draw, from the model's distribution over real items, level by level.
    everything = beam_search(model, trie, histories, num_beams=12, temperature=1.0, generator=generator)
    probabilities = torch.zeros(12)
    probabilities[everything.rows[0]] = everything.scores[0].exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)
    shares = torch.bincount(beams.rows[:, 0], minlength=12) / draws
    assert (shares - probabilities).abs().max() < 4 * (0.25 / draws) ** 0.5
    # Without replacement: the second draw follows the first's distribution with the first item taken out.
    given = beams.rows[beams.rows[:, 0] == probabilities.argmax()][:, 1]
    rest = probabilities.clone()
    rest[probabilities.argmax()] = 0
    second = torch.bincount(given, minlength=12) / len(given)
    assert (second - rest / rest.sum()).abs().max() < 4 * (0.25 / len(given)) ** 0.5


def test_cold_sampling_is_the_search():
    _, model, trie, histories = setup(60, [3, 4])
    # Almost no temperature: at each step the most probable token, which is the search with one beam.
    greedy = beam_search(model, trie, histories, num_beams=1)
    cold = beam_search(model, trie, histories, num_beams=60, k=1, temperature=1e-3)
    assert cold.rows.tolist() == greedy.rows.tolist()


def test_sampling_at_the_first_level_only():
    tokenizer, model, trie, histories = setup(60, [3])
    first, draws = torch.from_numpy(tokenizer.codes[:, 0]), 2000

    def scores(**options):
        beams = beam_search(model, trie, histories, num_beams=60, **options)
        return torch.zeros(60).scatter_(0, beams.rows[0], beams.scores[0])

    plain, even, cold = scores(), *(scores(temperature=value, sampled_levels=1) for value in (1.0, 2.0))
    # Of a code's items, the differences stay the model's; the codes' probabilities are those of the temperature.
    items = [torch.nonzero(first == code).flatten() for code in range(8)]
    assert all(torch.allclose(cold[rows] - cold[rows[0]], plain[rows] - plain[rows[0]], atol=1e-5) for rows in items)
    changed = torch.stack([cold[rows[0]] - even[rows[0]] for rows in items])
    assert ((-2 * changed).log_softmax(0) + changed).exp().sum().item() == pytest.approx(1, abs=1e-5)

    # The best item of each sample is the best of its code, as often as the noise on the codes makes it.
    options = {"temperature": 2.0, "sampled_levels": 1, "generator": torch.Generator().manual_seed(0)}
    found = beam_search(model, trie, histories.expand(draws, -1), num_beams=60, k=1, **options).rows[:, 0]
    best = torch.stack([rows[plain[rows].argmax()] for rows in items])
    assert set(found.tolist()) <= set(best.tolist())
    shares = torch.bincount(found, minlength=60)[best] / draws
    assert (shares - cold[best].softmax(0)).abs().max() < 4 * (0.25 / draws) ** 0.5

    # Sampling at each level of the trie is sampling at all.
    alike = [
        beam_search(
            model, trie, histories, 10, None, None, 2.0, torch.Generator().manual_seed(1), sampled_levels=levels
        )
        for levels in (None, trie.depth)
    ]
    assert alike[0].rows.tolist() == alike[1].rows.tolist()


def test_leaves_the_model_in_its_mode_and_refuses_nonsense():
    _, model, trie, histories = setup(10, [2])
    model.train()
    beam_search(model, trie, histories, num_beams=2)
    assert model.training
    with pytest.raises(ValueError, match="at least 1"):
        beam_search(model, trie, histories, num_beams=0)
    for temperature in (0.0, 3e-224, float("nan")):
        with pytest.raises(ValueError, match="at least 0.001"):
            beam_search(model, trie, histories, temperature=temperature)


def test_a_model_that_has_changed_decodes_as_it_is_now():
    tokenizer, model, trie, histories = setup(60, [3, 1])
    before = beam_search(model, trie, histories, num_beams=60)
    again = beam_search(model, trie, histories, num_beams=60)
    assert torch.equal(before.scores, again.scores)
    with torch.no_grad():
        model.encoder.block[0].layer[0].SelfAttention.q.weight.mul_(3)
    after = beam_search(model, trie, histories, num_beams=60)
    assert not torch.allclose(before.scores, after.scores, atol=1e-3)
    expected = score_all(model, tokenizer, histories[:1])
    torch.testing.assert_close(after.scores[0], expected[after.rows[0]], atol=2e-5, rtol=0)


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_bfloat16_is_near(tokens):
    _, model, trie, histories = setup(60, [3, 1, 4, 2, 5, 3, 3, 3, 7], tokens)
    exact = beam_search(model, trie, histories, num_beams=60)
    with torch.autocast("cpu", torch.bfloat16):
        near = beam_search(model, trie, histories, num_beams=60)
    by_row = [scores[rows.argsort()] for rows, scores in zip(exact.rows, exact.scores)]
    for rows, scores, expected in zip(near.rows, near.scores, by_row):
        torch.testing.assert_close(scores[rows.argsort()], expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_among_allowed_items_probabilities_are_those_among_all(tokens):
    _, model, trie, histories = setup(60, [3, 0, 5], tokens)
    everything = beam_search(model, trie, histories, num_beams=60)
    allowed = torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.2
    excluded = torch.tensor([allowed.nonzero().squeeze(1)[:3].tolist() + [int((~allowed).nonzero()[0])]]).expand(3, -1)
    some = beam_search(model, trie, histories, num_beams=60, allowed_items=allowed)
    fewer = beam_search(model, trie, histories, num_beams=60, allowed_items=allowed, excluded=excluded)
    for row in range(3):
        kept = allowed[everything.rows[row]]
        count = int(allowed.sum())
        assert some.rows[row, :count].tolist() == everything.rows[row][kept].tolist()
        torch.testing.assert_close(some.scores[row, :count], everything.scores[row][kept], atol=2e-5, rtol=0)
        assert (some.rows[row, count:] == -1).all()
        left = [item for item in some.rows[row, :count].tolist() if item not in excluded[row]]
        assert fewer.rows[row, : count - 3].tolist() == left and (fewer.rows[row, count - 3 :] == -1).all()
    # Dead ends cost no beam: with one left, one beam finds it.
    last = allowed.nonzero().squeeze(1)
    alone = beam_search(
        model, trie, histories, 1, allowed_items=allowed, excluded=last[:-1].unsqueeze(0).expand(3, -1)
    )
    assert alone.rows.tolist() == [[int(last[-1])]] * 3


def test_the_old_name_of_allowed_items_works():
    _, model, trie, histories = setup(30, [2])
    allowed = torch.arange(30) < 5
    with pytest.warns(DeprecationWarning, match="among of beam_search is now allowed_items"):
        found = beam_search(model, trie, histories, num_beams=30, k=5, among=allowed)
    assert sorted(found.rows[0].tolist()) == list(range(5))


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_custom_generate_gives_the_same_answers(tokens):
    """Causal attention, where T5's own decoding would give others; padded histories and an empty one."""
    tokenizer, model, trie, histories = setup(60, [3, 0, 5], tokens)
    options = {"custom_generate": trie_generate, "trie": trie, "num_beams": 12, "num_return_sequences": 10}
    output = model.generate(histories, return_dict_in_generate=True, **options)
    beams = beam_search(model, trie, histories, num_beams=12, k=10)
    assert output.sequences.shape == (30, 1 + trie.depth) and not output.sequences[:, 0].any()
    assert tokenizer.decode(output.sequences[:, 1:].numpy()).reshape(3, 10).tolist() == beams.rows.tolist()
    torch.testing.assert_close(output.sequences_scores.view(3, 10), beams.scores, atol=2e-5, rtol=0)
    plain = T5ForConditionalGeneration(model.config).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.generate(histories, **options), output.sequences)
    # What may be returned is limited as in beam_search; what is missing is padding.
    allowed = torch.arange(60) < 4
    excluded = torch.tensor([[0, -1]] * 3)
    fewer = model.generate(histories, allowed_items=allowed, excluded=excluded, **options)
    found = tokenizer.decode(fewer.view(3, 10, -1)[:, :3, 1:].numpy())
    assert all(sorted(row) == [1, 2, 3] for row in found.tolist())
    assert not fewer.view(3, 10, -1)[:, 3:].any()
    torch.manual_seed(0)
    sampled = model.generate(histories[:1], do_sample=True, temperature=5.0, **options)
    assert len({tuple(row) for row in sampled.tolist()}) == 10
    assert model.generate(histories, custom_generate=trie_generate, trie=trie).shape == (3, 1 + trie.depth)


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_each_history_has_its_own_allowed_items(tokens):
    """More histories than a CPU decodes together, so that their order changes on the way."""
    _, model, trie, histories = setup(60, [3, 0, 5, 1, 2, 4] * 5, tokens)
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 60, generator=random) < torch.tensor([[0.05], [0.3], [1.0], [0.0]])
    of = torch.randint(4, (30,), generator=random)
    excluded = torch.randint(-1, 60, (30, 6), generator=random)
    together = AllowedItems.together([AllowedItems.from_mask(trie, mask) for mask in masks], of)
    found = beam_search(model, trie, histories, num_beams=8, excluded=excluded, allowed_items=together)
    for user in range(30):
        alone = beam_search(
            model,
            trie,
            histories[user : user + 1],
            num_beams=8,
            excluded=excluded[user : user + 1],
            allowed_items=masks[of[user]],
        )
        assert found.rows[user].tolist() == alone.rows[0].tolist()
        torch.testing.assert_close(found.scores[user], alone.scores[0], atol=2e-5, rtol=0)
        left = masks[of[user]].clone()
        left[excluded[user][excluded[user] >= 0]] = False
        assert int((found.rows[user] >= 0).sum()) == min(8, int(left.sum()))


def test_allowed_items_are_exchanged_in_place():
    """As a captured search takes another filter: the tensor is the input, nothing else remembers it."""
    _, model, trie, histories = setup(60, [3, 2])
    masks = torch.rand(2, 60, generator=torch.Generator().manual_seed(1)) < 0.3
    first, second = (AllowedItems.from_mask(trie, mask) for mask in masks)
    expected = beam_search(model, trie, histories, num_beams=10, allowed_items=second)
    first.counts.copy_(second.counts)
    found = beam_search(model, trie, histories, num_beams=10, allowed_items=first)
    assert torch.equal(found.rows, expected.rows) and torch.equal(found.scores, expected.scores)
    assert masks[1][found.rows.clamp(min=0)][found.rows >= 0].all()
    with pytest.raises(ValueError, match=r"allowed items \[F, 61\] are needed"):
        AllowedItems(trie, first.counts[:, :-1])
