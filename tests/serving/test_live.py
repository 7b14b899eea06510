"""A service beside other writers of its directory, and models whose scores are no numbers."""

import copy
import threading

import numpy as np
import pytest
import torch

from tests.conftest import make_recommender
from tiger.cli.main import main
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever import inference_model
from tiger.retriever.search_options import SearchOptions
from tiger.serving import live
from tiger.serving.answers import NonFiniteScores, RecommendCall, answer_recommend
from tiger.serving.live import LiveRecommender, ReloadFailed, SaveConflict
from tiger.serving.model_source import ModelSource
from tiger.serving.query import Query
from tiger.utils.errors import DataError
from tiger.utils.locks import locked


@pytest.fixture
def recommender():
    return make_recommender(30)


def test_another_processs_update_is_not_undone(recommender, tmp_path, capsys):
    recommender.save_pretrained(tmp_path / "model")
    served = LiveRecommender(recommender, tmp_path / "model")
    served.remove("item-1")
    served.remove("item-2")  # after a save of its own
    main(["items", "remove", str(tmp_path / "model"), "item-3"])
    before = (tmp_path / "model" / "tiger.json").read_bytes()
    for _ in range(2):
        with pytest.raises(SaveConflict, match="model was changed by another process.*restart the service") as refused:
            served.remove("item-4")
        assert "\n" not in str(refused.value)
    assert (tmp_path / "model" / "tiger.json").read_bytes() == before
    assert served.now.catalogue == 2 and len(served.now.recommender.tokenizer) == 28  # and nothing has changed here
    restarted = LiveRecommender(TigerRecommender.from_pretrained(tmp_path / "model"), tmp_path / "model")
    assert restarted.remove("item-4").items == 26
    saved = TigerRecommender.from_pretrained(tmp_path / "model").tokenizer.item_ids
    assert not {"item-1", "item-2", "item-3", "item-4"} & set(saved) and len(saved) == 26


def test_a_directory_that_came_meanwhile_is_not_overwritten(recommender, tmp_path):
    served = LiveRecommender(copy.copy(recommender), tmp_path / "model")
    recommender.save_pretrained(tmp_path / "model")
    with pytest.raises(SaveConflict, match="was changed by another process"):
        served.remove("item-1")
    fresh = LiveRecommender(copy.copy(recommender), tmp_path / "new")
    fresh.remove("item-1")
    assert fresh.remove("item-2").items == len(TigerRecommender.from_pretrained(tmp_path / "new").tokenizer) == 28


def test_who_writes_the_directory_is_named(recommender, tmp_path, monkeypatch):
    recommender.save_pretrained(tmp_path / "model")
    served = LiveRecommender(recommender, tmp_path / "model")
    monkeypatch.setattr(live, "LOCK_SECONDS", 0.1)
    refused = []

    def update():
        try:
            served.remove("item-1")
        except SaveConflict as error:
            refused.append(str(error))

    with locked(tmp_path / "model"):
        thread = threading.Thread(target=update)  # locks belong to threads
        thread.start()
        thread.join()
    assert len(refused) == 1 and "is being written by process" in refused[0]
    assert served.remove("item-1").items == 29


def test_a_conflict_is_a_409_in_one_line(recommender, tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")
    from fastapi.testclient import TestClient

    from tiger.serving.service import ServiceSettings, create_app

    folder = tmp_path / "model"
    recommender.save_pretrained(folder)
    app = create_app(copy.copy(recommender), ServiceSettings(save=folder))
    with TestClient(app, "http://localhost") as client:
        recommender.remove_items(["item-9"])
        recommender.save_pretrained(folder)
        answer = client.delete("/items/item-1")
        assert answer.status_code == 409 and "changed by another process" in answer.json()["error"]
        assert client.get("/health").json()["items"] == 30
    assert len(TigerRecommender.from_pretrained(folder).tokenizer) == 29


def damaged(monkeypatch, value):
    decode = TigerRecommender.recommend

    def recommend(self, histories, *arguments, **options):
        items, scores = decode(self, histories, *arguments, **options)
        scores[[history == ["item-7"] or value is np.inf for history in histories], 0] = value
        return items, scores

    monkeypatch.setattr(TigerRecommender, "recommend", recommend)


def test_scores_that_are_no_numbers_are_refused_at_the_start(recommender, monkeypatch, tmp_path):
    served = LiveRecommender(copy.copy(recommender))
    damaged(monkeypatch, np.inf)
    with pytest.raises(DataError, match="the model scores items NaN or infinite.*Train it again"):
        LiveRecommender(recommender)
    with pytest.raises(DataError, match="NaN or infinite"):  # nor does an update bring them
        served.remove("item-1")
    assert served.now.catalogue == 0


def test_weights_that_are_no_numbers_are_refused_at_the_start(recommender):
    """All of them, not only those that a trial's histories meet."""
    with torch.no_grad():
        recommender.model.shared.weight[-1, 2] = torch.nan
    with pytest.raises(DataError, match="the service does not start: weights of .* are NaN, infinite"):
        LiveRecommender(recommender)


def test_weights_that_are_no_numbers_are_refused_at_a_reload(tmp_path):
    make_recommender(30).save_pretrained(tmp_path / "model")

    def read(name):
        loaded = TigerRecommender.from_pretrained(name)
        with torch.no_grad():
            loaded.model.shared.weight[-1, 2] = torch.nan
        return loaded

    served = LiveRecommender(make_recommender(30), source=ModelSource(str(tmp_path / "model"), None, read))
    before = served.now
    with pytest.raises(ReloadFailed, match=r"still answers: \S*model: weights of .* are NaN, infinite"):
        served.reload()
    assert served.now is before


def test_an_update_does_not_look_at_all_weights(recommender, monkeypatch):
    """It leaves them as they are, and a large model has many."""
    served = LiveRecommender(recommender)
    monkeypatch.setattr(live, "check_finite", lambda *_: pytest.fail("weights were looked at"))
    assert served.remove("item-1").items == 29


def test_one_answer_with_such_scores_is_an_error_and_the_others_are_not(recommender, monkeypatch):
    served = LiveRecommender(recommender)
    damaged(monkeypatch, np.nan)
    call = RecommendCall(k=3, rank=True, search=SearchOptions(num_beams=10), alone=None)
    histories = [[["item-1"]], [["item-7"]], [["item-2"], []]]
    answers = answer_recommend(served.now, call, list(map(Query, histories)))
    assert isinstance(answers[1], NonFiniteScores)
    assert [len(answer.items) for answer in (answers[0], answers[2])] == [1, 2]


def test_named_filters_outlast_updates_and_reloads_and_their_masks_do_not(recommender, tmp_path):
    recommender.save_pretrained(tmp_path / "model")
    source = ModelSource(str(tmp_path / "model"), None, TigerRecommender.from_pretrained)
    served = LiveRecommender(source.load().recommender, source=source)
    assert served.add_filter("in stock", ["item-1", "item-2", "item-3"]) == 3

    def answered():
        (answer,) = answer_recommend(
            served.now, RecommendCall(5, True, SearchOptions(), None), [Query([[]], filter="in stock")]
        )
        return sorted(answer.items[0]), answer.filter.unknown

    before = served.now
    assert answered() == (["item-1", "item-2", "item-3"], ())
    served.remove("item-1")
    assert answered() == (["item-2", "item-3"], ("item-1",))
    served.reload()  # item-1 is back
    assert answered() == (["item-1", "item-2", "item-3"], ())
    assert served.add_filter("in stock", "item_id = 'item-4'") == 1 and answered()[0] == ["item-4"]
    assert before.recommender.filters["in stock"].source == ("item-1", "item-2", "item-3")  # a snapshot is one


def test_a_service_in_bfloat16_makes_no_copy_in_float32(recommender):
    served = LiveRecommender(recommender, bf16=True)
    served.remove("item-1")
    for one in (recommender.model, served.now.recommender.model):
        made = {kind for kind in inference_model._kept[one] if isinstance(kind, torch.dtype)}
        assert made == {torch.bfloat16}
