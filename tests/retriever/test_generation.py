"""transformers' own ``generate`` against the beam search, and saved models in the ``Auto`` classes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from tests.conftest import make_histories, make_model, make_recommender, make_tokenizer
from tiger.quantizers.rqvae import RQVAE, RQVAEConfig
from tiger.rankers.click.model import RankerConfig, SemanticIdRanker
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import TigerT5Config
from tiger.retriever.generation import HistoryEncoder
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]


def allowed_tokens(tokenizer):
    """A ``prefix_allowed_tokens_fn`` from the table of tokens alone."""
    children = {}
    for tokens in tokenizer.token_table.tolist():
        for at, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:at]), set()).add(token)
    return lambda row, written: sorted(children[tuple(written.tolist()[1:])])


@pytest.mark.parametrize("users", [0, 3])
@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize("tokens", ["codes", "prefixes"])
def test_generate_finds_what_the_beam_search_finds(tmp_path, tokens, attention, users):
    """An empty and a padded history among them; read by ``AutoModelForSeq2SeqLM``, with either attention."""
    tokenizer = make_tokenizer(60, tokens=tokens)
    model = make_model(tokenizer, history_attention=attention, user_tokens=users)
    histories = make_histories(tokenizer, [3, 1, 5, 0])
    if users:
        histories = torch.cat([tokenizer.vocab_size + torch.tensor([[1], [2], [0], [3]]), histories], dim=1)
    expected = beam_search(model, SemanticIdTrie.build(tokenizer.token_table), histories, num_beams=30, k=10)
    model.save_pretrained(tmp_path)
    reopened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(reopened) is TigerT5
    for implementation in ("sdpa", "eager"):
        reopened.set_attn_implementation(implementation)
        found = reopened.generate(
            histories,
            prefix_allowed_tokens_fn=allowed_tokens(tokenizer),
            num_beams=30,
            num_return_sequences=10,
            max_new_tokens=tokenizer.depth,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        rows = torch.from_numpy(tokenizer.decode(found.sequences[:, 1:].numpy())).view(4, 10)
        assert torch.equal(rows, expected.rows)
        torch.testing.assert_close(found.sequences_scores.view(4, 10), expected.scores, atol=1e-4, rtol=1e-4)


def test_logits_of_users_are_no_candidates():
    tokenizer = make_tokenizer(20)
    model = make_model(tokenizer, user_tokens=2)
    histories = torch.cat([torch.full((2, 1), tokenizer.vocab_size + 1), make_histories(tokenizer, [2, 3])], dim=1)
    labels = torch.from_numpy(tokenizer.encode([1, 2]))
    output = model(input_ids=histories, labels=labels)
    assert output.logits[..., tokenizer.vocab_size :].isneginf().all()
    expected = model(input_ids=histories, num_visible_items=torch.tensor([[2], [3]]), labels=labels.unsqueeze(1))
    torch.testing.assert_close(output.loss, expected["loss"])


def test_an_encoder_without_item_lengths_is_refused():
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, num_heads=2, d_ff=8, num_layers=1)
    config.tiger_config = {"history_attention": "causal"}
    model = TigerT5(config)
    assert isinstance(model.get_encoder(), HistoryEncoder)
    with pytest.raises(DataError, match="history_item_length"):
        model(input_ids=torch.ones(1, 3, dtype=torch.long), decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))


def test_saved_models_of_before_are_read(tmp_path, recwarn):
    """``model_type`` was ``t5``; plain transformers opens it as ever."""
    model = make_model(make_tokenizer(20))
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content |= {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    reopened = TigerT5.from_pretrained(tmp_path)
    assert type(reopened.config) is TigerT5Config and reopened.config.tiger_config == model.config.tiger_config
    assert torch.equal(reopened.shared.weight, model.shared.weight)
    assert type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) is T5ForConditionalGeneration


def test_a_plain_t5_is_written_where_it_computes_the_same(tmp_path):
    tokenizer = make_tokenizer(40)
    model = make_model(tokenizer, history_attention="full")
    model.config.use_cache = False  # as a Trainer leaves it
    model.export_t5(tmp_path / "plain")
    saved = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert saved["model_type"] == "t5" and saved["use_cache"] and "tiger_config" not in saved
    assert saved["architectures"] == ["T5ForConditionalGeneration"] and not model.config.use_cache
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "plain")
    histories, labels = make_histories(tokenizer, [3, 2]), torch.from_numpy(tokenizer.encode([4, 5]))
    found = plain(input_ids=histories, attention_mask=histories.ne(0).long(), labels=labels)
    torch.testing.assert_close(found.logits, model(input_ids=histories, labels=labels).logits)
    for options, reason in (
        ({"history_attention": "causal"}, "history_attention: causal"),
        ({"history_attention": "full", "user_tokens": 2}, "users have tokens"),
    ):
        with pytest.raises(DataError, match=reason):
            make_model(tokenizer, **options).export_t5(tmp_path / "other")
    with pytest.raises(DataError, match="tokens: prefixes"):
        prefixes = make_tokenizer(40, tokens="prefixes")
        make_model(prefixes, history_attention="full").export_t5(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_auto_classes_know_the_other_models(tmp_path):
    RQVAE(RQVAEConfig(input_dim=8, hidden_sizes=(4,), latent_dim=2, codebook_size=4)).save_pretrained(tmp_path / "q")
    SemanticIdRanker(RankerConfig(budget=10, d_model=4, hidden_sizes=(4,))).save_pretrained(tmp_path / "r")
    assert type(AutoModel.from_pretrained(tmp_path / "q")) is RQVAE
    assert type(AutoModel.from_pretrained(tmp_path / "r")) is SemanticIdRanker


@pytest.mark.parametrize("first", ["tiger", "transformers", "transformers.models.auto.modeling_auto", "tiger.TigerT5"])
def test_importing_tiger_is_enough_whatever_comes_first(tmp_path, first):
    make_recommender(20).save_pretrained(tmp_path)
    program = f"""
import sys
{"from tiger import TigerT5" if first == "tiger.TigerT5" else f"import {first}"}
import tiger
if {first!r} == "tiger":
    assert "torch" not in sys.modules and "transformers" not in sys.modules
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})
model = AutoModelForSeq2SeqLM.from_pretrained({str(tmp_path)!r})
print(type(tokenizer).__name__, len(tokenizer), type(model).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.stdout.split() == ["SemanticIdTokenizer", "20", "TigerT5"], done.stderr[-2000:]


def test_without_tiger_nothing_is_opened_as_something_else(tmp_path):
    make_recommender(20).save_pretrained(tmp_path)
    program = f"""
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
for auto in (AutoModelForSeq2SeqLM, AutoTokenizer):
    try:
        print("opened", auto.from_pretrained({str(tmp_path)!r}))
    except ValueError as error:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.stdout.split() == ["refused", "refused"], done.stderr[-2000:]


def test_auto_tokenizer_gives_the_items(tmp_path):
    recommender = make_recommender(20)
    recommender.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, SemanticIdTokenizer) and tokenizer.item_ids == recommender.tokenizer.item_ids
    with pytest.raises(TypeError, match="padding_side"):
        AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
