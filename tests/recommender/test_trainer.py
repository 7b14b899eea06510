"""What ``TigerTrainer`` saves and pushes is a recommender."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import T5ForConditionalGeneration, TrainingArguments

from tests.conftest import make_model
from tests.recommender.test_hub import HISTORIES, REPO, hub, recommender  # noqa: F401
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.data.sequences import Sequences
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples
from tiger.utils.errors import DataError


def make_trainer(folder, parts, own=None, **settings):
    """A trainer for the items of a recommender."""
    items = np.random.default_rng(0).integers(0, len(parts.tokenizer), 200).astype(np.int32)
    log = Sequences(np.arange(0, 201, 5), items, np.zeros(200, dtype=np.int64))
    options = {"max_steps": 2, "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_steps": 1}
    return TigerTrainer(
        make_model(parts.tokenizer),
        TrainingArguments(str(folder), **{**options, **settings}),
        TrainingExamples(log.drop_last(1), max_history=5),
        EvaluationExamples(log.drop_last(1), items[4::5], max_history=5),
        parts.tokenizer,
        num_beams=10,
        **(own or {}),
    )


def answers(tiger):
    items, scores = tiger.recommend(HISTORIES, k=5, num_beams=20)
    return items, scores.tolist()


def test_what_it_saves_is_a_recommender(recommender, tmp_path):  # noqa: F811
    """With an encoder and items it takes new ones and knows titles; a run's folder holds it beside checkpoints."""
    own = {"items": recommender.items, "encoder": recommender.encoder, "template": "title"}
    trainer = make_trainer(tmp_path / "run", recommender, own)
    trainer.train()
    expected = answers(trainer.recommender())
    trainer.save_model(tmp_path / "saved")
    trainer.save_model()
    for name in ("saved", "run", "run/model"):
        tiger = TigerRecommender.from_pretrained(tmp_path / name)
        assert answers(tiger) == expected
    assert tiger.max_history == 5 and tiger.items.equals(recommender.items)
    assert tiger.training["steps"] == 2 and tiger.state.template == "title"
    assert tiger.add_items(["new-1"], ["A lantern"]) == ["new-1"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-1", "checkpoint-2", "model"]
    assert not list((tmp_path / "saved").rglob("*.bin"))  # no pickle
    trainer.save_model(tmp_path / "saved")  # again, over its own
    for place in (tmp_path / "saved", tmp_path / "run" / "checkpoint-2"):
        assert T5ForConditionalGeneration.from_pretrained(place).config.vocab_size == tiger.model.config.vocab_size


def test_a_model_and_a_tokenizer_are_enough(recommender, tmp_path):  # noqa: F811
    trainer = make_trainer(tmp_path / "run", recommender)
    trainer.save_model(tmp_path / "saved")
    tiger = TigerRecommender.from_pretrained(tmp_path / "saved")
    assert answers(tiger) == answers(trainer.recommender()) and tiger.items is None
    with pytest.raises(ValueError, match="tokenizer's items"):
        make_trainer(tmp_path, recommender, {"items": pa.table({"item_id": ["x"]})})
    with pytest.raises(DataError, match="names column 'brand'"):
        make_trainer(tmp_path, recommender, {"items": recommender.items, "template": "brand"})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        trainer.save_model(tmp_path / "notes")


def test_what_it_pushes_is_a_recommender(recommender, hub, tmp_path):  # noqa: F811
    trainer = make_trainer(
        tmp_path / "run", recommender, {"items": recommender.items}, push_to_hub=True, hub_model_id=REPO, max_steps=1
    )
    trainer.train()
    commit = trainer.push_to_hub(commit_message="Better")
    assert commit is not None and commit.oid
    tiger = TigerRecommender.from_pretrained(REPO)
    assert answers(tiger) == answers(trainer.recommender()) and tiger.items is None
    trainer.push_to_hub(include_items=True)
    assert TigerRecommender.from_pretrained(REPO).items is not None
    with pytest.raises(DataError, match="push_to_hub does not take tags: give commit_message, create_pr"):
        trainer.push_to_hub(tags="x")
    with pytest.raises(DataError, match="blocking=False"):
        trainer.push_to_hub(blocking=False)


def test_every_save_is_pushed_and_a_failed_push_ends_no_training(recommender, hub, tmp_path, caplog):  # noqa: F811
    options = {"push_to_hub": True, "hub_model_id": REPO}
    trainer = make_trainer(tmp_path / "run", recommender, **options)
    trainer.train()
    assert answers(TigerRecommender.from_pretrained(REPO)) == answers(trainer.recommender())
    trainer = make_trainer(tmp_path / "again", recommender, **options)
    trainer.args.hub_token = "hf_nobody"
    trainer.train()
    assert trainer.state.global_step == 2 and "step 2 is not pushed" in caplog.text


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_go_nowhere(recommender, tmp_path, value):  # noqa: F811
    trainer = make_trainer(tmp_path / "run", recommender)
    with torch.no_grad():
        trainer.model.shared.weight[3, 2] = value
    for act in (
        trainer.evaluate,
        trainer.save_model,
        trainer.push_to_hub,
        lambda: trainer.save_model(tmp_path / "saved"),
        lambda: trainer._save_checkpoint(trainer.model, None),
        lambda: trainer.predict(trainer.eval_dataset),
    ):
        with pytest.raises(DataError, match="shared.weight are NaN, infinite"):
            act()
    assert not [path for path in Path(tmp_path).rglob("*.safetensors") if "copy" not in path.parts]
