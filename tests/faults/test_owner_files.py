"""Files that no save wrote stay, whatever becomes of the save; nothing is taken for a part that none wrote."""

import errno
import json
import os
import shutil
import threading

import pytest

from tests.conftest import make_recommender
from tests.faults.subjects import FIXTURE, give_owner_files, owner_files_lost
from tiger.recommender.manifest import own_files
from tiger.recommender.recommender import TigerRecommender
from tiger.training.tokenizer import OWN_FILES
from tiger.utils import files
from tiger.utils.errors import DataError
from tiger.utils.files import replaced_folder
from tiger.utils.locks import locked


@pytest.fixture
def recommender():
    return make_recommender(40)


@pytest.mark.parametrize("manifest", ["", "{", '{"format": 99}', None])
def test_a_save_over_a_damaged_manifest_keeps_them(recommender, tmp_path, manifest):
    folder = tmp_path / "model"
    recommender.save_pretrained(folder)
    give_owner_files(folder)
    (folder / "unseen.safetensors").write_text("of the old one")
    if manifest is None:  # a stranger's, who calls everything a part
        told = json.loads((folder / "tiger.json").read_text())
        manifest = json.dumps(told | {"parts": [*told["parts"], ".git", "NOTES.md"]})
    (folder / "tiger.json").write_text(manifest)
    assert {".git", "NOTES.md"}.isdisjoint(own_files(folder))
    recommender.save_pretrained(folder)
    assert not owner_files_lost(folder) and not (folder / "unseen.safetensors").exists()
    assert len(TigerRecommender.from_pretrained(folder).tokenizer) == 40


def test_a_tokenizer_that_is_fitted_anew_keeps_them(tmp_path):
    from tests.recipes.test_ranking_experiment import write_dataset
    from tiger.training.tokenizer import TokenizerArguments, train_tokenizer

    write_dataset(tmp_path / "data")
    args = TokenizerArguments(
        str(tmp_path / "data"),
        str(tmp_path / "tokenizer"),
        encoder="lsa",
        embedding_dim=4,
        quantizer="residual-kmeans",
        num_codebooks=2,
        codebook_size=4,
    )
    train_tokenizer(args)
    assert set(os.listdir(tmp_path / "tokenizer")) == set(OWN_FILES)
    give_owner_files(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "encoder" / "old").write_text("goes")
    train_tokenizer(args)
    assert not owner_files_lost(tmp_path / "tokenizer") and not (tmp_path / "tokenizer" / "encoder" / "old").exists()


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_file_that_comes_while_folders_change_places_stays(tmp_path, monkeypatch, in_one_step):
    folder, swap = tmp_path / "model", files._swapped
    folder.mkdir()
    (folder / "marker").write_text("1")

    def swap_after_a_note(path, other):
        (path / "NOTES.md").write_text("mine")
        return in_one_step and swap(path, other)

    monkeypatch.setattr(files, "_swapped", swap_after_a_note)
    with replaced_folder(folder, "marker", ours=lambda old: ["marker"]) as fresh:
        (fresh / "marker").write_text("2")
    assert (folder / "NOTES.md").read_text() == "mine" and (folder / "marker").read_text() == "2"


def test_a_folder_that_a_killed_writer_put_aside_is_put_back(tmp_path):
    """Killed between two renames, where the system can't exchange folders: the old one is not lost."""
    aside = tmp_path / ".model.old.abc" / "model"
    aside.mkdir(parents=True)
    (aside / "marker").write_text("1")
    (aside / "NOTES.md").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        with replaced_folder(tmp_path / "model", "marker", ours=lambda old: ["marker"]):
            raise KeyboardInterrupt
    assert (tmp_path / "model" / "marker").read_text() == "1" and os.listdir(tmp_path) == ["model"]
    with replaced_folder(tmp_path / "model", "marker", ours=lambda old: ["marker"]) as fresh:
        (fresh / "marker").write_text("2")
    assert sorted(os.listdir(tmp_path / "model")) == ["NOTES.md", "marker"]


def test_what_was_put_aside_is_not_lost_where_the_name_was_taken(tmp_path):
    aside = tmp_path / ".model.old.abc" / "model"
    aside.mkdir(parents=True)
    for name in ("marker", "NOTES.md"):
        (aside / name).write_text("old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "marker").write_text("another")
    with replaced_folder(tmp_path / "model", "marker", ours=lambda old: ["marker"]) as fresh:
        (fresh / "marker").write_text("2")
    assert (tmp_path / "model" / "marker").read_text() == "2" and os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "NOTES.md").read_text() == "old"


def test_a_power_cut_leaves_them_their_names(tmp_path, monkeypatch):
    """The names in the new folder are on the disk before it takes the old one's place, and that before that goes."""
    folder = tmp_path / "model"
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "ab").write_text("object")
    (folder / "marker").write_text("1")
    (folder / "NOTES.md").write_text("mine")
    steps = []

    def trace(name, original):
        def call(*args, **options):
            steps.append((name, *(os.path.basename(str(one)) for one in args[:2])))
            return original(*args, **options)

        return call

    monkeypatch.setattr(files, "sync", trace("sync", files.sync))
    monkeypatch.setattr(os, "link", trace("link", os.link))
    monkeypatch.setattr(files, "_swapped", trace("swap", files._swapped))
    monkeypatch.setattr(shutil, "rmtree", trace("remove", shutil.rmtree))
    with replaced_folder(folder, "marker", ours=lambda old: ["marker"]) as fresh:
        (fresh / "marker").write_text("2")
    fresh_name = fresh.name
    swap = steps.index(("swap", "model", fresh_name))
    links = [place for place, step in enumerate(steps) if step[0] == "link"]
    assert len(links) == 2 and max(links) < swap
    for name in ("objects", ".git", fresh_name):
        synced = [place for place, step in enumerate(steps) if step == ("sync", name)]
        assert any(max(links) < place < swap for place in synced) or name != fresh_name
        assert any(place < swap for place in synced)
    assert steps[swap + 1] == ("sync", tmp_path.name) and steps[swap + 2] == ("remove", fresh_name)


def test_an_error_of_the_disk_among_them_is_raised_as_it_is(tmp_path, monkeypatch):
    """Not as a list of all errors, which says neither what kind they are nor how many come."""
    (tmp_path / "model" / ".git" / "objects").mkdir(parents=True)
    (tmp_path / "model" / "marker").write_text("1")
    for name in ("ab", "cd"):
        (tmp_path / "model" / ".git" / "objects" / name).write_text("object")

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        with replaced_folder(tmp_path / "model", "marker", ours=lambda old: ["marker"]) as fresh:
            (fresh / "marker").write_text("2")
    assert caught.value.errno == errno.ENOSPC and os.listdir(tmp_path) == ["model"]
    assert sorted(os.listdir(tmp_path / "model" / ".git" / "objects")) == ["ab", "cd"]


def test_copies_are_on_the_disk_too_where_there_are_no_links(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "marker").write_text("1")
    (tmp_path / "model" / "NOTES.md").write_text("mine")
    synced, sync = [], files.sync
    monkeypatch.setattr(files, "sync", lambda path: synced.append(os.path.basename(path)) or sync(path))

    def refuse(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with replaced_folder(tmp_path / "model", "marker", ours=lambda old: ["marker"]) as fresh:
        (fresh / "marker").write_text("2")
    assert "NOTES.md" in synced and (tmp_path / "model" / "NOTES.md").read_text() == "mine"


def test_a_lock_is_given_back_on_a_disk_that_became_read_only(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", refuse)
        patched.setattr("pathlib.Path.write_text", refuse)
        with pytest.raises(ValueError, match="what went wrong"):
            with locked(tmp_path / "model"):
                raise ValueError("what went wrong")
    taken = []

    def take() -> None:
        with locked(tmp_path / "model", wait=1.0):
            taken.append(True)

    other = threading.Thread(target=take)
    other.start()
    other.join()
    assert taken and os.listdir(tmp_path) == []


@pytest.mark.parametrize(("name", "comes_from"), [("unseen.safetensors", None), ("ranker", "click")])
def test_parts_that_no_save_wrote_are_not_read(tmp_path, name, comes_from):
    folder = tmp_path / "model"
    TigerRecommender.from_pretrained(FIXTURE / "codes").save_pretrained(folder)
    if comes_from is None:
        tiger = TigerRecommender.from_pretrained(folder)
        tiger.add_items(["new"], texts=["Title: A lamp"])
        tiger.save_pretrained(tmp_path / "grown")
        shutil.copy(tmp_path / "grown" / name, folder)
    else:
        shutil.copytree(FIXTURE / comes_from / name, folder / name)
    with pytest.raises(DataError, match=f"holds {name}, which its tiger.json does not name"):
        TigerRecommender.from_pretrained(folder)


def test_a_stray_file_within_a_part_is_not_read(tmp_path):
    TigerRecommender.from_pretrained(FIXTURE / "codes").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "encoder" / ".DS_Store").write_text("no part reads it")
    assert TigerRecommender.from_pretrained(tmp_path / "model").max_history == 5
    (tmp_path / "model" / "encoder" / "more.json").write_text("{}")
    with pytest.raises(DataError, match="holds encoder/more.json, which"):
        TigerRecommender.from_pretrained(tmp_path / "model")


def test_a_changed_number_of_a_manifest_is_found(recommender, tmp_path):
    recommender.save_pretrained(tmp_path)
    file = tmp_path / "tiger.json"
    sound = json.loads(file.read_text())
    file.write_text(json.dumps(sound | {"max_history": sound["max_history"] + 2}))
    with pytest.raises(DataError, match="max_history or training is not as saved"):
        TigerRecommender.from_pretrained(tmp_path)
    told = {name: value for name, value in sound.items() if name != "settings_sha256"}  # as an older version wrote it
    file.write_text(json.dumps(told | {"max_history": 3}))
    assert TigerRecommender.from_pretrained(tmp_path).max_history == 3
