"""A directory that is replaced while it is read: one model or the other, never parts of both."""

import copy
import threading

import pytest

from tests.conftest import make_recommender
from tiger.recommender.checkpoint import read_state
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.state import RecommenderState


def recommender(seed: int, count: int) -> TigerRecommender:
    return make_recommender(count, seed, training={"seed": seed})


@pytest.mark.parametrize("loads", [30])
def test_loads_beside_saves(tmp_path, loads):
    pair = [recommender(0, 40), recommender(1, 50)]
    weights = [one.model.shared.weight[1, 0].item() for one in pair]
    pair[0].save_pretrained(tmp_path / "model")
    done, faults = threading.Event(), []

    def save() -> None:
        turn = 0
        while not done.wait(0.05):
            turn += 1
            try:
                copy.copy(pair[turn % 2]).save_pretrained(tmp_path / "model")
            except Exception as error:  # noqa: BLE001  # told by the main thread
                faults.append(error)
                return

    saver = threading.Thread(target=save)
    saver.start()
    try:
        for _ in range(loads):
            state: RecommenderState = read_state(tmp_path / "model", verify=True)
            seed = state.training["seed"]
            assert state.tokenizer.item_ids == pair[seed].tokenizer.item_ids
            assert state.model.shared.weight[1, 0].item() == weights[seed]
            state.trie.check_table(pair[seed].tokenizer.token_table)
    finally:
        done.set()
        saver.join()
    assert not faults


def test_what_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    """A whole save of another model between two parts of a load."""
    from tiger.recommender import checkpoint

    first, second = recommender(0, 40), recommender(1, 50)
    first.save_pretrained(tmp_path / "model")
    load, saves = checkpoint.load_model, [second, first]

    def load_after_a_save(*args, **options):
        if saves:
            saves.pop().save_pretrained(tmp_path / "model")
        return load(*args, **options)

    monkeypatch.setattr(checkpoint, "load_model", load_after_a_save)
    state = read_state(tmp_path / "model")
    assert state.training == {"seed": 1} and len(state.tokenizer) == 50 and not saves
