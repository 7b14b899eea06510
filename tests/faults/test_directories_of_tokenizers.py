"""A tokenizer's directory: semantic IDs and quantizer of one tokenizer, or one line that says what is wrong."""

import os
import shutil

import numpy as np
import pytest

from tests.faults.subjects import FIXTURE, give_owner_files, owner_files_lost
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.semantic_ids import directory
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils import digests
from tiger.utils.errors import DataError


def fitted(seed: int, **options) -> SemanticIdTokenizer:
    vectors = np.random.default_rng(seed).normal(size=(40, 4)).astype(np.float32)
    options = {"quantizer": "residual-kmeans", "num_codebooks": 2, "codebook_size": 4, "progress": False} | options
    return SemanticIdTokenizer.fit(vectors, [f"item-{row}" for row in range(40)], **options)


def same(one: SemanticIdTokenizer, other: SemanticIdTokenizer) -> bool:
    vectors = np.random.default_rng(9).normal(size=(20, 4)).astype(np.float32)
    ids = np.array_equal(one.semantic_ids, other.semantic_ids) and one.item_ids == other.item_ids
    return ids and np.array_equal(one.quantizer.encode(vectors), other.quantizer.encode(vectors))


@pytest.mark.parametrize("fails", ["quantizer", "semantic IDs"])
def test_a_save_that_ends_half_way_leaves_the_old_tokenizer(tmp_path, monkeypatch, fails):
    old, new = fitted(0), fitted(1)
    old.save_pretrained(tmp_path / "tokenizer")
    give_owner_files(tmp_path / "tokenizer")

    def ended(*_):
        raise KeyboardInterrupt

    name = "write_semantic_ids" if fails == "semantic IDs" else "save_quantizer"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(directory, name, ended)
        new.save_pretrained(tmp_path / "tokenizer")
    assert same(SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer"), old)
    new.save_pretrained(tmp_path / "tokenizer")
    assert same(SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer"), new) and not same(old, new)
    assert not owner_files_lost(tmp_path / "tokenizer") and os.listdir(tmp_path) == ["tokenizer"]


def test_a_tokenizer_that_a_killed_save_put_aside_keeps_its_owners_files(tmp_path):
    fitted(0).save_pretrained(tmp_path / ".tokenizer.old.abc" / "tokenizer")
    give_owner_files(tmp_path / ".tokenizer.old.abc" / "tokenizer")
    new = fitted(1)
    new.save_pretrained(tmp_path / "tokenizer")
    assert same(SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer"), new)
    assert not owner_files_lost(tmp_path / "tokenizer") and os.listdir(tmp_path) == ["tokenizer"]


def test_semantic_ids_and_a_quantizer_of_two_tokenizers_are_refused(tmp_path):
    for seed in range(2):
        fitted(seed).save_pretrained(tmp_path / str(seed))
    shutil.rmtree(tmp_path / "0" / "quantizer")
    with pytest.raises(DataError, match="quantizer lacks codebooks|quantizer lacks config.json"):
        SemanticIdTokenizer.from_pretrained(tmp_path / "0")
    shutil.copytree(tmp_path / "1" / "quantizer", tmp_path / "0" / "quantizer")
    with pytest.raises(
        DataError, match="is damaged, or of another tokenizer than .*model.safetensors is not as saved"
    ):
        SemanticIdTokenizer.from_pretrained(tmp_path / "0")


@pytest.mark.parametrize("name", ["../../secret", "{tmp_path}/secret", "a/../../../secret"])
def test_a_header_that_names_files_elsewhere_opens_none(tmp_path, monkeypatch, name):
    fitted(0).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "tokenizer" / "quantizer" / "a").mkdir()
    place, name = tmp_path / "tokenizer" / directory.FILE_NAME, name.format(tmp_path=tmp_path)
    arrays, item_ids, header = directory.read_semantic_ids(place)
    header["quantizer"][name] = digests.sha256(tmp_path / "secret")  # a right guess is no way in either
    directory.write_semantic_ids(place, arrays, item_ids, {key: one for key, one in header.items() if key != "sha256"})
    opened, read = [], digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: opened.append(path) or read(path))
    with pytest.raises(DataError, match=r"names '.*secret', outside .*quantizer: don't trust .*tokenizer"):
        SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert opened == []


def test_a_tokenizer_without_quantizer_takes_none_that_lies_there(tmp_path):
    fitted(0).save_pretrained(tmp_path / "with")
    codes = np.random.default_rng(0).integers(0, 4, (40, 2))
    SemanticIdTokenizer(codes, [f"item-{row}" for row in range(40)], 4).save_pretrained(tmp_path / "without")
    shutil.copytree(tmp_path / "with" / "quantizer", tmp_path / "without" / "quantizer")
    assert SemanticIdTokenizer.from_pretrained(tmp_path / "without").quantizer is None


def test_every_flipped_bit_of_a_tokenizer_is_found(tmp_path):
    fitted(0).save_pretrained(tmp_path)
    file, random = tmp_path / "semantic_ids.safetensors", np.random.default_rng(0)
    sound = file.read_bytes()
    for place in random.integers(0, len(sound), 150).tolist():
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << int(random.integers(8))]) + sound[place + 1 :])
        with pytest.raises(DataError) as caught:
            SemanticIdTokenizer.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)


def test_tokenizers_from_before_digests_load():
    tokenizer = SemanticIdTokenizer.from_pretrained(FIXTURE / "click")
    assert isinstance(tokenizer.quantizer, ResidualKMeans) and len(tokenizer) == 40


def test_a_quantizer_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    old, new, load = fitted(0), fitted(1), directory.load_quantizer
    old.save_pretrained(tmp_path / "tokenizer")
    saves = [new]

    def load_after_a_save(place):
        if saves:
            saves.pop().save_pretrained(tmp_path / "tokenizer")
        return load(place)

    monkeypatch.setattr(directory, "load_quantizer", load_after_a_save)
    assert same(SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer"), new) and not saves
