"""User tokens: the same everywhere, before every history, and nothing where they are off."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import T5ForConditionalGeneration, TrainingArguments

from tests.conftest import make_model, make_tokenizer
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.data.users import user_numbers
from tiger.evaluation.evaluator import evaluate
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import RetrieverConfig, check_pair, retriever_config
from tiger.retriever.data_collator import EvaluationCollator, TrainingCollator
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples
from tiger.retriever.initialization import grow_vocabulary
from tiger.retriever.model import TigerT5, encode, item_logits, next_item_loss, target_states
from tiger.retriever.search_options import SearchOptions
from tiger.retriever.user_tokens import UNKNOWN_SHARE, forget_some_users
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.serving.answers import RecommendCall, answer_recommend
from tiger.serving.live import LiveRecommender
from tiger.serving.offline import recommend_users
from tiger.serving.query import Query
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]
USERS = 7


def some_sequences(tokenizer, lengths, named=True):
    random = np.random.default_rng(0)
    rows = [random.integers(len(tokenizer), size=length) for length in lengths]
    return Sequences.from_rows(rows, pa.array([f"user-{n}" for n in range(len(rows))]) if named else None)


def loss_of(model, tokenizer, examples, trie=None):
    """Mean loss over all targets of these examples."""
    batch = TrainingCollator(tokenizer, trie)([examples[row] for row in range(len(examples))])
    return next_item_loss(model, **batch)


def test_numbers_are_the_same_in_every_process():
    assert user_numbers(["A1", "A2", "é", 7, None], 2000).tolist() == [1498, 489, 1964, 1256, 0]  # by b2sum
    script = "from tiger.data.users import user_numbers; print(user_numbers(map(str, range(50)), 2000).tolist())"
    found = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout)
    assert found[0] == found[1] and str(user_numbers(range(50), 2000).tolist()) == found[0].strip()
    many = user_numbers(map(str, range(20_000)), 2000)
    assert many.min() == 1 and many.max() == 2000 and np.bincount(many)[1:].max() < 30


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_a_user_token_comes_first(tokens):
    tokenizer = make_tokenizer(40, tokens=tokens)
    sequences = some_sequences(tokenizer, [4, 3])
    examples = TrainingExamples(sequences, 20, user_tokens=USERS)
    batch = TrainingCollator(tokenizer)([examples[0], examples[1]])
    plain = TrainingExamples(sequences, 20)
    expected = TrainingCollator(tokenizer)([plain[0], plain[1]])
    numbers = user_numbers(["user-0", "user-1"], USERS)
    assert batch["input_ids"][:, 0].tolist() == (tokenizer.vocab_size + numbers).tolist()
    assert torch.equal(batch["input_ids"][:, 1:], expected["input_ids"])
    assert all(torch.equal(batch[name], expected[name]) for name in ("labels", "num_visible_items"))
    evaluated = EvaluationExamples(sequences, np.zeros(2), user_tokens=USERS).select(np.array([1]))
    assert EvaluationCollator(tokenizer)([evaluated[0]])["input_ids"][0, 0] == tokenizer.vocab_size + numbers[1]


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_shared_histories_have_the_losses_of_single_ones(tokens, attention):
    """All targets of a user from one pass of the encoder, as from a pass for each: with the user in front of both."""
    tokenizer = make_tokenizer(40, tokens=tokens)
    model = make_model(tokenizer, history_attention=attention, user_tokens=USERS)
    trie = SemanticIdTrie.build(tokenizer.token_table) if tokens != "codes" else None
    sequences = some_sequences(tokenizer, [6, 2, 9, 4])
    single = TrainingExamples(sequences, 20, shared=False, user_tokens=USERS)
    alone = sum(loss_of(model, tokenizer, [single[row]], trie) for row in range(len(single))) / len(single)
    torch.testing.assert_close(loss_of(model, tokenizer, single, trie), alone)
    if attention == "causal":
        shared = TrainingExamples(sequences, 20, user_tokens=USERS)
        assert len(shared) == 4
        # With codes, each target has as many tokens; with prefixes, the mean is over all tokens as well.
        torch.testing.assert_close(loss_of(model, tokenizer, shared, trie), alone)
    others = TrainingExamples(
        Sequences(sequences.offsets, sequences.items, sequences.timestamps, pa.array("abcd")),
        20,
        shared=False,
        user_tokens=USERS,
    )
    assert abs(loss_of(model, tokenizer, others, trie) - alone) > 1e-4  # it is read


def test_items_see_the_user_and_the_user_sees_no_item():
    tokenizer = make_tokenizer(40)
    model = make_model(tokenizer, user_tokens=USERS)
    history = torch.from_numpy(tokenizer.encode_history(np.array([[3, 5, 8]])))
    first, second = (torch.cat([torch.full((1, 1), tokenizer.vocab_size + n), history], 1) for n in (1, 2))
    changed = first.clone()
    changed[0, -1] = tokenizer.vocab_size - 1
    (keys, _), (other, _), (later, _) = (encode(model, tokens, 4)[0] for tokens in (first, second, changed))
    assert (keys != other).any(-1).all()  # every place reads the user
    assert torch.equal(keys[:, :, :9], later[:, :, :9]) and not torch.equal(keys[:, :, 9:], later[:, :, 9:])


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_beam_search_scores_what_training_scores(tokens, attention):
    """Log-probabilities of the search are those of the loss, and add up to 1 over the catalog."""
    tokenizer = make_tokenizer(30, tokens=tokens)
    model = make_model(tokenizer, history_attention=attention, user_tokens=USERS)
    trie = SemanticIdTrie.build(tokenizer.token_table)
    examples = EvaluationExamples(some_sequences(tokenizer, [5, 0, 2]), np.array([1, 2, 3]), user_tokens=USERS)
    batch = EvaluationCollator(tokenizer)([examples[row] for row in range(3)])
    beams = beam_search(model, trie, batch["input_ids"], num_beams=30)
    labels = torch.from_numpy(tokenizer.encode(np.arange(30)))
    for user, length in enumerate([5, 0, 2]):
        states = target_states(
            model, batch["input_ids"][user : user + 1].expand(30, -1), torch.full((30, 1), length), labels.unsqueeze(1)
        )
        if tokens == "codes":
            logits = item_logits(model, states)
            assert logits.shape[-1] == tokenizer.vocab_size
            expected = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1).sum(-1)
            found = beams.scores[user][beams.rows[user].argsort()]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        else:
            assert beams.scores[user].exp().sum() == pytest.approx(1, abs=1e-4)


def test_training_forgets_users_now_and_then():
    tokenizer = make_tokenizer(40)
    model = make_model(tokenizer, user_tokens=USERS)
    tokens = torch.full((5000, 5), tokenizer.vocab_size + 3)
    found = forget_some_users(model, tokens)
    assert set(found[:, 0].tolist()) == {tokenizer.vocab_size, tokenizer.vocab_size + 3}
    assert found[:, 0].eq(tokenizer.vocab_size).float().mean() == pytest.approx(UNKNOWN_SHARE, abs=0.02)
    assert torch.equal(found[:, 1:], tokens[:, 1:])


def test_off_is_as_before():
    tokenizer = make_tokenizer(40)
    model, named = make_model(tokenizer), some_sequences(tokenizer, [5, 3])
    assert model.config.vocab_size == tokenizer.vocab_size and "user_tokens" not in model.config.tiger_config
    plain = some_sequences(tokenizer, [5, 3], named=False)
    for train in (named, plain):
        example = TrainingExamples(train)[0]
        assert set(example) == {"items", "first_target"}
    ours = loss_of(model, tokenizer, TrainingExamples(named))
    assert torch.equal(ours, loss_of(model, tokenizer, TrainingExamples(plain)))
    tiger = TigerRecommender(model, tokenizer)
    found, unnamed = (tiger.recommend_rows(one, k=5, num_beams=10) for one in (named, plain))
    assert (found[0] == unnamed[0]).all() and (found[1] == unnamed[1]).all()
    with pytest.raises(DataError, match="this model reads no users: leave the users out"):
        tiger.recommend([["item-1"]], user_ids=["A"])


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_recommend_takes_the_users_of_the_evaluation(tokens, tmp_path):
    tokenizer = make_tokenizer(40, tokens=tokens)
    tiger = TigerRecommender(make_model(tokenizer, user_tokens=USERS), tokenizer)
    random = np.random.default_rng(1)
    users = [f"u{n}" for n in range(12)]
    events = [(user, f"item-{item}", time) for user in users for time, item in enumerate(random.integers(40, size=5))]
    items = pa.table({"item_id": tokenizer.item_ids})
    log = pa.table(
        {name: [event[at] for event in events] for at, name in enumerate(("user_id", "item_id", "timestamp"))}
    )
    split = RecommendationData.from_tables(items, log).leave_one_out()
    asked = []

    def recommend(histories, k, exclude_history):
        asked.append(tiger.recommend_rows(histories, k, exclude_history=exclude_history, num_beams=20))
        return asked[-1]

    evaluate(recommend, *split.part("test"))
    rows, scores = asked[0]
    histories = [[tokenizer.item_ids[row] for row in history] for history in split.test_histories]
    found, values = tiger.recommend(histories, user_ids=users, num_beams=20)
    assert [tokenizer.rows(ids).tolist() for ids in found] == rows.tolist()
    np.testing.assert_array_equal(values, scores)
    unknown = tiger.recommend(histories, num_beams=20)
    assert unknown[0] == tiger.recommend(histories, user_ids=[None] * 12, num_beams=20)[0]
    assert (unknown[1] != scores).all()
    with pytest.raises(
        DataError, match="user_ids must be a list of one id, or None, per history, of which there are 12"
    ):
        tiger.recommend(histories, user_ids=["u0"])

    tiger.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    assert retriever_config(again.model).user_tokens == USERS
    assert again.recommend(histories, user_ids=users, num_beams=20)[0] == found
    plain = T5ForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert plain.config.vocab_size == tokenizer.vocab_size + USERS + 1 + (50 if tokens == "hashed_prefixes" else 0)


def test_the_log_of_the_batch_verb_names_its_users(tmp_path):
    tokenizer = make_tokenizer(40)
    tiger = TigerRecommender(make_model(tokenizer, user_tokens=USERS), tokenizer)
    log = {"user_id": ["u1", "u2", "u3"], "item_id": ["item-4"] * 3, "timestamp": [5, 6, 7]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    recommend_users(tiger, tmp_path / "log.parquet", tmp_path / "out.parquet", bf16=False, k=4, num_beams=20)
    rows = pq.read_table(tmp_path / "out.parquet").to_pandas()
    items, scores = tiger.recommend([["item-4"]] * 3, k=4, num_beams=20, user_ids=["u1", "u2", "u3"])
    for user, ids, values in zip(("u1", "u2", "u3"), items, scores):
        found = rows[rows.user_id == user]
        assert found.item_id.tolist() == ids
        np.testing.assert_allclose(found.score, values, rtol=1e-5)
    assert len({tuple(values) for values in scores.tolist()}) == len(set(user_numbers(["u1", "u2", "u3"], USERS))) > 1


def test_requests_with_and_without_users_share_a_batch():
    tokenizer = make_tokenizer(40)
    tiger = TigerRecommender(make_model(tokenizer, user_tokens=USERS), tokenizer)
    call = RecommendCall(3, True, SearchOptions(num_beams=10), None)
    queries = [Query([["item-1"]]), Query([["item-1"], ["item-1"]], users=["u1", None])]
    first, second = answer_recommend(LiveRecommender(tiger).now, call, queries)
    items, scores = tiger.recommend([["item-1"]] * 2, k=3, num_beams=10, user_ids=["u1", None])
    assert second.items == items and first.items == items[1:] and items[0] != items[1]
    np.testing.assert_allclose([*second.scores, *first.scores], [scores[0], scores[1], scores[1]], rtol=1e-4)


def test_the_service_takes_users():
    from fastapi.testclient import TestClient

    from tiger.serving.service import create_app

    tokenizer = make_tokenizer(40)
    tiger = TigerRecommender(make_model(tokenizer, user_tokens=USERS), tokenizer)
    body = {"histories": [["item-1"], ["item-1"]], "users": ["u1", None], "k": 3, "num_beams": 10}
    with TestClient(create_app(tiger), base_url="http://localhost") as client:
        found = client.post("/recommend", json=body).json()["recommendations"]
        short = client.post("/recommend", json=body | {"users": ["u1"]})
    assert [one["items"] for one in found] == tiger.recommend(
        body["histories"], k=3, num_beams=10, user_ids=body["users"]
    )[0]
    assert short.status_code == 422 and "users must be one per history" in short.json()["error"]
    with TestClient(
        create_app(TigerRecommender(make_model(tokenizer), tokenizer)), base_url="http://localhost"
    ) as client:
        answer = client.post("/recommend", json=body)
    assert answer.status_code == 409 and answer.json()["error"] == "this model reads no users: leave the users out"


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_users_keep_their_tokens_when_items_are_added(tokens):
    tokenizer = make_tokenizer(40, tokens=tokens)
    model = make_model(tokenizer, user_tokens=USERS)
    before, size = model.shared.weight.detach().clone(), tokenizer.vocab_size
    tokenizer.add_items([f"new-{n}" for n in range(20)], codes=np.tile([[7, 0, 7]], (20, 1)))
    assert tokenizer.vocab_size > size
    with pytest.raises(ValueError, match=f"the model has {size} tokens, the tokenizer {tokenizer.vocab_size}"):
        check_pair(model, tokenizer)
    grow_vocabulary(model, tokenizer)
    check_pair(model, tokenizer)
    after = model.shared.weight
    assert torch.equal(after[:size], before[:size]) and torch.equal(after[-USERS - 1 :], before[-USERS - 1 :])
    assert model.lm_head.weight is model.shared.weight


def test_what_does_not_fit_together_is_refused(tmp_path):
    tokenizer = make_tokenizer(40)
    sequences = some_sequences(tokenizer, [5, 3], named=False)
    with pytest.raises(DataError, match="give them user_ids"):
        TrainingExamples(sequences, user_tokens=USERS)
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    model = make_model(tokenizer, user_tokens=USERS)
    with pytest.raises(ValueError, match="the model has 7 user tokens, the TrainingExamples are for 0"):
        TigerTrainer(model, args, TrainingExamples(sequences), processing_class=tokenizer)
    with pytest.raises(DataError, match="user_tokens must be from 0"):
        RetrieverConfig(user_tokens=-1)
    assert TigerT5(model.config).config.tiger_config["user_tokens"] == USERS


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_training_learns_who_buys_what(tokens, tmp_path):
    """Two users whose histories are alike, but not what they buy next: only a user token tells them apart."""
    tokenizer = make_tokenizer(12, tokens=tokens)
    rows = [np.array([0, 1, 2 + 3 * (user % 2)]) for user in range(40)]
    sequences = Sequences.from_rows(rows, pa.array(["A1", "B2"] * 20))
    assert user_numbers(["A1", "B2"], USERS)[0] != user_numbers(["A1", "B2"], USERS)[1]
    model = make_model(tokenizer, d_model=32, user_tokens=USERS)
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        max_steps=60,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    valid = EvaluationExamples(sequences.drop_last(1), sequences.items[sequences.offsets[1:] - 1], 20, USERS)
    trainer = TigerTrainer(
        model, args, TrainingExamples(sequences, user_tokens=USERS), valid, tokenizer, exclude_history=False
    )
    trainer.train()
    tiger = TigerRecommender(model.eval(), tokenizer)
    found, _ = tiger.recommend([["item-0", "item-1"]] * 2, k=1, num_beams=10, user_ids=["A1", "B2"])
    assert found == [["item-2"], ["item-5"]]
    assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(1)


def test_a_model_that_reads_more_tokens_an_item_than_are_written_is_no_pair():
    tokenizer = make_tokenizer(40, tokens="hashed_prefixes")
    model = make_model(tokenizer)
    model.config.tiger_config = replace(retriever_config(model), history_item_length=1 << 14).to_dict()
    with pytest.raises(ValueError, match="reads 16384 tokens an item of the history, the tokenizer writes"):
        check_pair(model, tokenizer)
