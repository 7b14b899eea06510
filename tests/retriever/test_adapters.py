"""Adapters and other layers in the place of plain ones: computed, or refused by name, never left out."""

import copy

import pytest
import torch
from torch import nn
from transformers import T5ForConditionalGeneration, TrainingArguments

from tests.conftest import make_histories, make_model, make_recommender, make_tokenizer
from tests.retriever.test_trainer import cycle_data, losses
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.beam_search import beam_search
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples
from tiger.retriever.inference_model import packed
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError


class LowRank(nn.Module):
    """A stand-in for PEFT's: a frozen layer and two small matrices, which can be turned off."""

    def __init__(self, base: nn.Linear, rank: int = 2):
        super().__init__()
        self.base_layer, self.enabled = base.requires_grad_(False), True
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        self.dropout = nn.Dropout(0.5)

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        added = self.up(self.down(self.dropout(states))) if self.enabled else 0
        return self.base_layer(states) + added

    def merge(self) -> nn.Linear:
        merged = copy.deepcopy(self.base_layer)
        merged.weight.data += self.up.weight.data @ self.down.weight.data
        return merged


SLOTS = ("q", "k", "v", "o", "wi", "wo", "lm_head")


def wrap(model: nn.Module) -> list[LowRank]:
    wrapped = []
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if name in SLOTS and type(layer) is nn.Linear:
                setattr(owner, name, LowRank(layer))
                wrapped.append(getattr(owner, name))
    return wrapped


def merge(model: nn.Module) -> None:
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, LowRank):
                setattr(owner, name, layer.merge())


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_the_search_computes_adapters_switched_on_and_off(tokens):
    tokenizer = make_tokenizer(50, tokens=tokens)
    model = make_model(tokenizer)
    trie, histories = SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [3, 1, 4])

    def search(one):
        return beam_search(one, trie, histories, num_beams=50, k=20)

    plain = search(model)
    layers = wrap(model)
    model.eval()
    found = search(model)
    assert not torch.equal(found.rows, plain.rows)
    for layer in layers:
        layer.enabled = False
    off = search(model)
    assert torch.equal(off.rows, plain.rows)
    torch.testing.assert_close(off.scores, plain.scores)
    for layer in layers:
        layer.enabled = True
    assert (
        torch.equal(search(model.train()).rows, found.rows) and model.lm_head.training
    )  # no dropout, and left as it was
    merge(model.eval())
    merged = search(model)
    assert torch.equal(merged.rows, found.rows)
    torch.testing.assert_close(merged.scores, found.scores, atol=1e-5, rtol=1e-5)


def test_a_replaced_layer_is_noticed():
    model = make_model(make_tokenizer(20))
    before = packed(model, torch.float32)
    assert packed(model, torch.float32) is before
    layer = model.encoder.block[0].layer[0].SelfAttention
    layer.o = nn.Linear(layer.o.in_features, layer.o.out_features, bias=False)
    assert packed(model, torch.float32) is not before


class Rounded(nn.Module):
    """A stand-in for a quantized layer that takes inputs of its own kind only."""

    def forward(self, states):
        raise RuntimeError("expected inputs\nof int8")


class Shifted(nn.Linear):
    """No linear layer, whatever it is called."""

    def forward(self, states):
        return super().forward(states) + 1


@pytest.mark.parametrize(
    "layer, reason", [(Rounded(), "Rounded.*expected inputs of int8"), (Shifted(16, 16, bias=False), "Shifted.*bias")]
)
def test_layers_that_cannot_be_computed_are_named(tmp_path, layer, reason):
    tokenizer = make_tokenizer(20)
    model = make_model(tokenizer)
    model.encoder.block[0].layer[0].SelfAttention.q = layer
    trie, histories = SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [2])
    with pytest.raises(DataError, match=f"{reason}.*merge_and_unload"):
        beam_search(model, trie, histories)
    with pytest.raises(DataError, match=f"{type(layer).__name__}.*merge_and_unload"):
        model.save_pretrained(tmp_path / "model")
    recommender = TigerRecommender(model, tokenizer)
    with pytest.raises(DataError, match=f"is not written.*{type(layer).__name__}.*merge_and_unload"):
        recommender.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_wrapped_norm_is_named():
    tokenizer = make_tokenizer(20)
    model = make_model(tokenizer)
    model.decoder.final_layer_norm = nn.Identity()
    with pytest.raises(DataError, match="norm of the type Identity"):
        beam_search(model, SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [2]))


class Wrapper(nn.Module):
    """A stand-in for a PeftModel: the model within, and its attributes."""

    def __init__(self, model, prompts=False):
        super().__init__()
        self.base_model = model
        self.active_peft_config = type("Config", (), {"is_prompt_learning": prompts, "peft_type": "PROMPT_TUNING"})()

    def get_base_model(self):
        return self.base_model

    def forward(self, *args, **options):
        return self.base_model(*args, **options)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)


def trainer_of(model, tokenizer, sequences, folder, push_to_hub=False, **options):
    settings = {
        "use_cpu": True,
        "save_strategy": "no",
        "learning_rate": 3e-2,
        "max_steps": 40,
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": push_to_hub,
    }
    return TigerTrainer(
        model,
        args=TrainingArguments(str(folder), per_device_train_batch_size=64, **settings),
        train_dataset=TrainingExamples(sequences.drop_last(1)),
        eval_dataset=EvaluationExamples(sequences.drop_last(1), sequences.items[sequences.offsets[1:] - 1]),
        processing_class=tokenizer,
        num_beams=12,
        exclude_history=False,
        **options,
    )


@pytest.mark.parametrize("options", [{}, {"muon_learning_rate": 1e-2, "embedding_learning_rate": 1e-2}])
def test_adapters_train_and_are_evaluated(tmp_path, options):
    tokenizer, sequences = make_tokenizer(12), cycle_data()
    model = make_model(tokenizer)
    wrap(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("down" in name or "up" in name)
    frozen = model.shared.weight.clone()
    trainer = trainer_of(Wrapper(model), tokenizer, sequences, tmp_path, **options)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    first, *_, last = losses(trainer).values()
    assert last < first - 0.1 and trainer.evaluate()["eval_loss"] < before - 0.1
    assert torch.equal(model.shared.weight, frozen)


def test_prompts_are_refused():
    tokenizer, sequences = make_tokenizer(12), cycle_data()
    with pytest.raises(DataError, match="PROMPT_TUNING.*LoRA"):
        trainer_of(Wrapper(make_model(tokenizer), prompts=True), tokenizer, sequences, "unused")


def test_a_recommender_takes_a_t5_alone():
    recommender = make_recommender(20)
    with pytest.raises(DataError, match="Wrapper.*merge_and_unload"):
        TigerRecommender(Wrapper(recommender.model), recommender.tokenizer)


def test_a_trainer_saves_adapters_and_pushes_none(tmp_path):
    """It answers by them; a recommender's directory holds whole weights, so it is not written."""
    tokenizer, sequences = make_tokenizer(12), cycle_data()
    model = make_model(tokenizer)
    wrapped = wrap(model)
    trainer = trainer_of(Wrapper(model), tokenizer, sequences, tmp_path)
    tiger = trainer.recommender()
    histories = [tokenizer.item_ids[:2]]
    on = tiger.recommend(histories, k=5)[1]
    for layer in wrapped:
        layer.enabled = False
    assert not torch.allclose(torch.from_numpy(on), torch.from_numpy(tiger.recommend(histories, k=5)[1]))
    saved = []
    trainer._save = lambda output_dir, state_dict=None: saved.append(output_dir)  # knows PEFT's models alone
    trainer.save_model("adapters")
    assert saved == ["adapters"] and not list(tmp_path.rglob("tiger.json"))
    with pytest.raises(DataError, match="LowRank.*merge_and_unload"):
        trainer.push_to_hub()
    with pytest.raises(DataError, match="does not take push_to_hub with adapters.*merge_and_unload"):
        trainer_of(Wrapper(model), tokenizer, sequences, tmp_path, push_to_hub=True)


@pytest.mark.parametrize("task_type", [None, "SEQ_2_SEQ_LM"])
def test_peft_itself(tmp_path, task_type):
    peft = pytest.importorskip("peft")
    tokenizer, sequences = make_tokenizer(12), cycle_data()
    trie, histories = SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [3, 1])
    config = peft.LoraConfig(task_type=task_type, r=4, lora_dropout=0.1, target_modules=["q", "k", "v", "wi", "wo"])
    model = peft.get_peft_model(make_model(tokenizer), config)
    trainer = trainer_of(model, tokenizer, sequences, tmp_path)
    trainer.train()
    first, *_, last = losses(trainer).values()
    assert last < first - 0.1
    on = beam_search(model.eval(), trie, histories, num_beams=12)
    with model.disable_adapter():
        off = beam_search(model, trie, histories, num_beams=12)
    assert not torch.allclose(on.scores, off.scores, atol=1e-2)
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert (tmp_path / "adapter" / "semantic_ids.safetensors").exists()
    again = peft.PeftModel.from_pretrained(make_model(tokenizer), tmp_path / "adapter").eval()
    torch.testing.assert_close(beam_search(again, trie, histories, num_beams=12).scores, on.scores)
    merged = model.merge_and_unload()
    assert isinstance(merged, T5ForConditionalGeneration)
    torch.testing.assert_close(
        beam_search(merged, trie, histories, num_beams=12).scores, on.scores, atol=1e-4, rtol=1e-4
    )
    TigerRecommender(merged, tokenizer).save_pretrained(tmp_path / "merged")
