"""Options of loading a recommender, where it computes, and what it says of itself."""

import copy

import numpy as np
import pytest
import torch

from tests.conftest import make_recommender
from tests.processes import run_python
from tests.rankers.click.test_ranker import make_ranker
from tiger.recommender.loading import LoadOptions
from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError

HISTORIES = [["item-1", "item-2"], ["item-5"], []]


@pytest.fixture
def saved(tmp_path):
    recommender = make_recommender(60)
    recommender.save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def scores(recommender):
    return recommender.recommend(HISTORIES, k=20, num_beams=60)[1]


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    "dtype, near", [("bfloat16", 0.3), (torch.float16, 0.05), ("torch.float32", 1e-6), ("auto", 0)]
)
def test_precision(saved, name, dtype, near):
    whole = TigerRecommender.from_pretrained(saved)
    loaded = TigerRecommender.from_pretrained(saved, **{name: dtype})
    expected = torch.float32 if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch."))
    assert loaded.dtype == loaded.model.dtype == expected
    found = scores(loaded)
    np.testing.assert_allclose(found, scores(whole), atol=near)
    if expected is not torch.float32:
        assert np.abs(found - scores(whole)).max() > 1e-5  # its products are of that precision
        loaded.save_pretrained(saved)
        assert TigerRecommender.from_pretrained(saved).dtype == expected


def test_casts_and_moves(saved):
    loaded = TigerRecommender.from_pretrained(saved)
    whole = scores(loaded)
    assert loaded.bfloat16() is loaded and loaded.dtype == torch.bfloat16
    assert np.abs(scores(loaded) - whole).max() > 1e-5
    assert loaded.half().dtype == torch.float16 and loaded.float().dtype == torch.float32
    assert loaded.to("cpu", torch.bfloat16).dtype == torch.bfloat16 and loaded.cpu().device.type == "cpu"
    assert loaded.to(device="cpu", dtype="float32").dtype == torch.float32
    for wrong, reason in (("int8", "dtype must be one of"), (torch.float64, "got float64")):
        with pytest.raises(DataError, match=reason):
            loaded.to(dtype=wrong)


def test_the_ranker_moves_with_the_t5():
    recommender = make_recommender(30)
    dense = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    recommender.ranker = make_ranker(recommender.tokenizer, dense, "unigram+dense")
    before = recommender.recommend(HISTORIES, k=5, num_beams=20)
    moved = []
    recommender.ranker.ranker.to, kept = lambda device: moved.append(str(device)), recommender.ranker.ranker.to
    recommender.to("cpu")
    recommender.ranker.ranker.to = kept
    assert moved == ["cpu"] and recommender.recommend(HISTORIES, k=5, num_beams=20)[0] == before[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_are_not_there(saved):
    for options in ({"device": "cuda"}, {"device_map": "cuda:0"}, {"device_map": {"": "cuda"}}):
        with pytest.raises(DataError, match="device cuda.*(without CUDA|no GPU).*Give cpu") as error:
            TigerRecommender.from_pretrained(saved, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="without CUDA|no GPU"):
        TigerRecommender.from_pretrained(saved).cuda()


def test_device_maps(saved):
    for place in ("auto", "cpu", {"": "cpu"}, torch.device("cpu")):
        found = TigerRecommender.from_pretrained(saved, device_map=place).device.type
        assert found == ("cuda" if place == "auto" and torch.cuda.is_available() else "cpu")
    for place in ("balanced", {"encoder": "cpu", "decoder": "disk"}):
        with pytest.raises(DataError, match="spreads a model over devices"):
            TigerRecommender.from_pretrained(saved, device_map=place)
    with pytest.raises(DataError, match="'warp' is no device"):
        TigerRecommender.from_pretrained(saved, device_map="warp")
    with pytest.raises(DataError, match="give device alone"):
        TigerRecommender.from_pretrained(saved, "cpu", device_map="cpu")


def test_attention_of_generate(saved):
    for name in ("eager", "sdpa"):
        loaded = TigerRecommender.from_pretrained(saved, attn_implementation=name)
        assert loaded.model.config._attn_implementation == name
    with pytest.raises(DataError, match="attn_implementation must be one of eager, sdpa, got 'flash_attention_2'"):
        TigerRecommender.from_pretrained(saved, attn_implementation="flash_attention_2")


def test_options_are_taken_or_refused_by_name(saved):
    options = LoadOptions(dtype="bfloat16", rank=False)
    assert TigerRecommender.from_pretrained(saved, options=options).dtype == torch.bfloat16
    assert TigerRecommender.from_pretrained(saved, options=options, dtype="float32").dtype == torch.float32
    for given, reason in (
        ({"trust_remote_code": True}, "no code of a model's repository is ever run"),
        ({"quantization_config": {}}, "no option quantization_config: it has .*attn_implementation"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16, got int8"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "dtype and torch_dtype differ"),
    ):
        with pytest.raises(DataError, match=reason):
            TigerRecommender.from_pretrained(saved, **given)


def test_a_subfolder_of_a_directory(saved):
    for folder, within in ((saved.parents[1], "run/model"), (saved.parents[1], "run"), (saved.parent, "model")):
        assert len(TigerRecommender.from_pretrained(folder, subfolder=within).tokenizer) == 60
    with pytest.raises(DataError, match="tiger.json"):
        TigerRecommender.from_pretrained(saved.parents[1], subfolder="elsewhere")


def test_what_it_says_of_itself():
    recommender = make_recommender(60)
    told = repr(recommender)
    assert told.startswith("TigerRecommender(items: 60; levels: 3 of 8 codes; tokens: codes; ranker: none; ")
    assert "in float32 on cpu" in told and "\n" not in told
    assert repr(copy.copy(recommender)) == told


def test_loading_says_nothing_of_tied_weights(saved, tmp_path):
    """The output layer is the embeddings: a checkpoint holds them once."""
    program = f"""
import tiger
from transformers import AutoModelForSeq2SeqLM
tiger.TigerRecommender.from_pretrained({str(saved)!r})
tiger.TigerT5.from_pretrained({str(saved)!r})
AutoModelForSeq2SeqLM.from_pretrained({str(saved)!r})
"""
    (tmp_path / "load.py").write_text(program)
    done = run_python(tmp_path / "load.py")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [word for word in ("lm_head", "MISSING", "issing key") if word in done.stdout + done.stderr]
