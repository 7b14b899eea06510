"""The real Hub client against a Hub on the loopback."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from data.demo import write_demo
from recipes import retriever
from tests.conftest import make_model
from tests.hub_server import Hub
from tests.rankers.click.test_ranker import make_ranker
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.cli.main import main
from tiger.data.dataset import RecommendationData
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.recommender import custom_generate
from tiger.recommender.manifest import MANIFEST
from tiger.recommender.model_card import model_card, read_results
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]
REPO = "me/tiger-demo"
HISTORIES = [["i1", "i2", "i3"], ["i7"], []]
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that this process's client talks to, with an empty cache and the owner's token."""
    with Hub() as hub:
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield hub


@pytest.fixture
def recommender(fitted, tmp_path):  # noqa: F811
    tokenizer, encoder, items = fitted
    tokenizer.save_pretrained(tmp_path / "copy")
    own = SemanticIdTokenizer.from_pretrained(tmp_path / "copy")
    training = {"dataset": "/home/me/shops/demo", "seed": 3, "arguments": {"d_model": 16, "model_dir": "/home/me/x"}}
    return TigerRecommender(make_model(own), own, encoder, items, max_history=5, training=training)


def with_ranker(recommender):
    dense = recommender.encoder.encode(recommender.items["title"].to_pylist())
    recommender.ranker = make_ranker(recommender.tokenizer, dense, "unigram+dense")
    return recommender


def assert_same_answers(first, second):
    items, scores = first.recommend(HISTORIES, k=5, num_beams=20)
    others, other_scores = second.recommend(HISTORIES, k=5, num_beams=20)
    assert items == others
    np.testing.assert_allclose(scores, other_scores, atol=1e-4)


def test_push_and_load(hub, recommender, tmp_path):
    with_ranker(recommender)
    commit = recommender.push_to_hub(REPO, include_items=True)
    published = hub.repositories[REPO]
    assert commit.oid == published.refs["main"] and commit.startswith(hub.endpoint)
    assert published.messages == ["initial commit", "Upload a tiger recommender"] and not published.private
    files = published.files()
    assert files["model.safetensors"][1] and files["items.parquet"][1] and hub.asked("PUT /lfs/")
    assert not files["config.json"][1] and not files["README.md"][1]
    assert set(files) >= {"semantic_ids.safetensors", "trie.safetensors", "encoder/encoder.safetensors", MANIFEST}
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".pth"))]

    before = len(hub.requests)
    loaded = TigerRecommender.from_pretrained(REPO)
    assert_same_answers(recommender, loaded)
    assert loaded.titles(["i3"]) == recommender.titles(["i3"]) and loaded.training == recommender.training
    assert loaded.rank(HISTORIES, [["i3", "i4"]] * 3)[0] == recommender.rank(HISTORIES, [["i3", "i4"]] * 3)[0]
    unread = (".md", ".png", ".py", ".gitattributes")
    assert not [request for request in hub.requests[before:] if request.endswith(unread)]
    for tiger in (recommender, loaded):
        tiger.add_items(["new"], ["tent rope map"])
    assert_same_answers(recommender, loaded)

    code = files["custom_generate/generate.py"][0]
    assert code == Path(custom_generate.__file__).read_bytes() and not hub.asked("GET custom_generate")
    plain = AutoModelForSeq2SeqLM.from_pretrained(REPO, cache_dir=tmp_path / "other")
    assert type(plain) is TigerT5
    expected = TigerRecommender.from_pretrained(REPO).model.state_dict()
    assert all(torch.equal(weights, expected[name]) for name, weights in plain.state_dict().items())


def test_texts_are_published_only_on_request(hub, recommender):
    recommender.push_to_hub(REPO)
    assert "items.parquet" not in hub.repositories[REPO].files() and recommender.items is not None
    assert b"rope tent" not in hub.repositories[REPO].files()["README.md"][0]
    loaded = TigerRecommender.from_pretrained(REPO)
    assert loaded.items is None and loaded.titles(["i1"]) == ["i1"]
    assert_same_answers(recommender, loaded)


def test_old_revisions_give_the_old_answers(hub, recommender):
    old = TigerRecommender(make_model(recommender.tokenizer, seed=1), recommender.tokenizer)
    first = old.push_to_hub(REPO)
    recommender.push_to_hub(REPO)
    assert_same_answers(old, TigerRecommender.from_pretrained(REPO, revision=first.oid))
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO))
    assert old.recommend(HISTORIES, k=5)[0] != recommender.recommend(HISTORIES, k=5)[0]

    branched = old.push_to_hub(REPO, revision="old")
    assert hub.repositories[REPO].refs["old"] == branched.oid != hub.repositories[REPO].refs["main"]
    assert_same_answers(old, TigerRecommender.from_pretrained(REPO, revision="old"))
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO, revision="main"))
    assert b'revision="old"' in hub.repositories[REPO].files("old")["README.md"][0]

    proposed = old.push_to_hub(REPO, create_pr=True)
    assert proposed.pr_url.endswith("/discussions/1")
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO))
    assert_same_answers(old, TigerRecommender.from_pretrained(REPO, revision="refs/pr/1"))


def test_what_vanished_from_the_model_vanishes_from_the_repository(hub, recommender):
    with_ranker(recommender).push_to_hub(REPO, include_items=True)
    published = hub.repositories[REPO]
    own = {"notes.txt": (b"mine", False), "ranker/notes.txt": (b"mine", False), "big.safetensors": (b"mine", True)}
    published.commit("main", published.files() | own, "by hand")
    hub.lfs[hashlib.sha256(b"mine").hexdigest()] = b"mine"
    recommender.ranker = recommender.encoder = None
    recommender.push_to_hub(REPO)
    files = published.files()
    assert published.messages[2:] == ["by hand", "Upload a tiger recommender"]
    assert {name for name in files if name.startswith(("ranker/", "encoder/"))} == {"ranker/notes.txt"}
    assert "items.parquet" not in files and "code_usage.png" in files and files.items() >= own.items()
    loaded = TigerRecommender.from_pretrained(REPO)
    assert loaded.ranker is None and loaded.encoder is None
    assert not [request for request in hub.requests if request.endswith("big.safetensors")]
    recommender.push_to_hub(REPO)
    assert len(published.messages) == 4  # nothing new, no commit


def test_private_and_gated_repositories(hub, recommender, monkeypatch):
    recommender.push_to_hub(REPO, private=True)
    assert hub.repositories[REPO].private
    monkeypatch.delenv("HF_TOKEN")
    for token in (None, "hf_reader", "hf_wrong"):
        with pytest.raises(DataError, match=f"{REPO}.*hf auth login"):
            TigerRecommender.from_pretrained(REPO, token=token)
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO, token="hf_writer"))

    hub.repositories["me/gated"] = hub.repositories[REPO]
    hub.repositories["me/gated"].private, hub.repositories["me/gated"].gated = False, True
    with pytest.raises(DataError, match="me/gated is gated: ask for access"):
        TigerRecommender.from_pretrained("me/gated", token="hf_reader")


def test_pushing_without_the_right_to(hub, recommender, monkeypatch):
    with pytest.raises(DataError, match="can't push to other/x .*403.*token that may write"):
        recommender.push_to_hub("other/x")
    with pytest.raises(DataError, match="can't push to me/x .*401.*token that may write"):
        recommender.push_to_hub("me/x", token=False)
    with pytest.raises(DataError, match="give owner/name"):
        recommender.push_to_hub("me/too/deep")
    assert hub.repositories == {}
    with pytest.raises(DataError, match="can't push to me/tiger-demo: Invalid metadata in README.md"):
        recommender.push_to_hub(REPO, license="none of these")
    assert hub.repositories[REPO].messages == ["initial commit"]
    with pytest.raises(DataError, match="there already, and public"):
        recommender.push_to_hub(REPO, private=True)
    with pytest.raises(DataError, match="of other models"):
        recommender.push_to_hub("me/new", results=[result("tiger", 0.1, training={"seed": 4})])
    assert "me/new" not in hub.repositories
    assert recommender.push_to_hub("tiger-demo", token="hf_writer").oid == hub.repositories[REPO].refs["main"]
    hub.stop()
    with pytest.raises(DataError, match="can't push to me/tiger-demo .*Try again"):
        recommender.push_to_hub(REPO)


def test_without_a_network(hub, recommender, tmp_path):
    commit = recommender.push_to_hub(REPO)
    TigerRecommender.from_pretrained(REPO)
    before = len(hub.requests)
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO, local_files_only=True))
    assert len(hub.requests) == before
    hub.stop()
    for revision in (None, commit.oid):
        assert_same_answers(
            recommender, TigerRecommender.from_pretrained(REPO, revision=revision, local_files_only=True)
        )
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO))
    with pytest.raises(DataError, match="not in the cache as a whole"):
        TigerRecommender.from_pretrained(REPO, cache_dir=tmp_path / "empty", local_files_only=True)


def test_an_interrupted_download_is_completed(hub, recommender):
    recommender.push_to_hub(REPO)
    hub.fail["model.safetensors"] = 503
    with pytest.raises(DataError, match=f"download of {REPO} broke off .*503"):
        TigerRecommender.from_pretrained(REPO)
    with pytest.raises(DataError, match="not in the cache as a whole"):
        TigerRecommender.from_pretrained(REPO, local_files_only=True)
    hub.fail.clear()
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO))
    ids = [request for request in hub.asked("GET /cdn/") if request.endswith("/semantic_ids.safetensors")]
    assert len(ids) == 1


def test_a_dropped_connection_is_resumed(hub, recommender, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)
    recommender.push_to_hub(REPO)
    hub.drop["model.safetensors"] = 5000
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO))
    (resumed,) = [request for request in hub.requests if " from " in request]
    assert "model.safetensors" in resumed and int(resumed.split()[-1]) > 4000


@pytest.mark.parametrize(
    "name", ["model.safetensors", "semantic_ids.safetensors", "encoder/encoder.json", "quantizer/config.json"]
)
def test_tampered_files_are_named_and_leave_the_cache(hub, recommender, name):
    recommender.push_to_hub(REPO)
    whole = hub.repositories[REPO].files()[name][0]
    hub.serve[name] = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(DataError, match=f": {name} is not as saved.*has left the cache"):
        TigerRecommender.from_pretrained(REPO)
    hub.serve[name] = whole[: len(whole) // 2]
    with pytest.raises(DataError, match="broke off|is not as saved"):
        TigerRecommender.from_pretrained(REPO)
    hub.serve.clear()
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO))


def test_parts_of_different_models(hub, recommender):
    """Digests that fit, as if each file had been put there on purpose."""
    recommender.push_to_hub(REPO)
    published = hub.repositories[REPO]
    codes = recommender.tokenizer.codes[::-1].copy()
    other = SemanticIdTokenizer(codes, recommender.tokenizer.item_ids, 8)
    TigerRecommender(make_model(other), other).push_to_hub("me/other")
    files = dict(published.files())
    files["semantic_ids.safetensors"] = hub.repositories["me/other"].files()["semantic_ids.safetensors"]
    manifest = json.loads(files[MANIFEST][0])
    manifest["files"]["semantic_ids.safetensors"] = hashlib.sha256(files["semantic_ids.safetensors"][0]).hexdigest()
    files[MANIFEST] = json.dumps(manifest).encode(), False
    published.commit("main", files, "mixed")
    with pytest.raises(DataError, match=f"different models .*{recommender.tokenizer.fingerprint}"):
        TigerRecommender.from_pretrained(REPO)


def test_other_repositories_are_refused_before_they_are_downloaded(hub, recommender, tmp_path):
    recommender.push_to_hub(REPO)
    weights = {"model.safetensors": (b"weights", True), "pytorch_model.bin": (b"pickle", True)}
    for name, manifest in (
        ("none", None),
        ("foreign", b'{"name": "tiger"}'),
        ("list", b"[]"),
        ("short", b'{"format": 1}'),
        ("noise", b"\xff{"),
    ):
        hub.repositories[f"me/{name}"] = type(hub.repositories[REPO])()
        own = {} if manifest is None else {MANIFEST: (manifest, False)}
        hub.repositories[f"me/{name}"].commit("main", weights | own, "x")
        with pytest.raises(DataError, match="tiger.json.*(not a recommender|something else|damaged)"):
            TigerRecommender.from_pretrained(f"me/{name}")
    assert not [request for request in hub.requests if request.endswith(("model.safetensors", ".bin"))][2:]
    with pytest.raises(DataError, match=f"{REPO} has no revision 'v9'"):
        TigerRecommender.from_pretrained(REPO, revision="v9")
    with pytest.raises(DataError, match="me/nothing is neither a directory here nor a repository"):
        TigerRecommender.from_pretrained("me/nothing")
    for name in ("runs/nowhere/model", "model", tmp_path / "model", "me/a b"):
        with pytest.raises(DataError, match="is not a directory"):
            TigerRecommender.from_pretrained(name)


@pytest.mark.parametrize("escape", ["../../../../../victim.txt", "{tmp_path}/victim.txt"])
def test_a_manifest_reaches_no_file_outside(hub, recommender, tmp_path, escape):
    recommender.push_to_hub(REPO)
    (tmp_path / "victim.txt").write_text("precious")
    files = dict(hub.repositories[REPO].files())
    manifest = json.loads(files[MANIFEST][0])
    manifest["files"][escape.format(tmp_path=tmp_path)] = "0" * 64
    hub.repositories[REPO].commit("main", files | {MANIFEST: (json.dumps(manifest).encode(), False)}, "x")
    with pytest.raises(DataError, match="victim.txt', outside its directory"):
        TigerRecommender.from_pretrained(REPO)
    assert (tmp_path / "victim.txt").read_text() == "precious"


def test_no_code_is_downloaded(hub, recommender):
    recommender.push_to_hub(REPO)
    files, code = dict(hub.repositories[REPO].files()), b"raise SystemExit('run')"
    hub.repositories[REPO].commit("main", files | {"modeling.py": (code, False), "encoder/a.py": (code, False)}, "x")
    assert_same_answers(recommender, TigerRecommender.from_pretrained(REPO))
    manifest = json.loads(files[MANIFEST][0])
    manifest["files"]["modeling.py"] = hashlib.sha256(code).hexdigest()
    named = {"modeling.py": (code, False), MANIFEST: (json.dumps(manifest).encode(), False)}
    hub.repositories[REPO].commit("main", files | named, "x")
    with pytest.raises(DataError, match="modeling.py"):
        TigerRecommender.from_pretrained(REPO)
    assert "custom_generate/generate.py" in files
    assert not [request for request in hub.requests if request.endswith(".py")]


def test_an_encoder_that_others_lack(hub, recommender, tmp_path):
    recommender.encoder = SentenceEncoder(tmp_path)
    with pytest.warns(UserWarning, match="the encoder is a folder of this machine"):
        recommender.push_to_hub(REPO)
    assert b"new items can only be added where that folder is" in hub.repositories[REPO].files()["README.md"][0]


def result(model, ndcg, **more):
    metrics = dict.fromkeys(METRICS, 0.25) | {"ndcg@10": ndcg}
    row = {"dataset": "demo", "model": model, "setting": "as published, history removed", "metrics": metrics}
    return row | more


def test_the_card_tells_what_is_known(recommender, tmp_path):
    mine = result("tiger", 0.125, training=recommender.training, std={"ndcg@10": 0.01}, seeds=[1, 2], num_beams=50)
    others = [result("hybrid", 0.5), result("popularity", 0.0625), result("tiger-paper", 0.3, training={"seed": 4})]
    rows = [mine, *others]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    text = model_card(recommender.state, REPO, read_results([tmp_path / "results.json"]), license="mit")
    card = ModelCard(text)
    metadata = yaml.safe_load(text.split("---\n")[1])
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "tiger-demo" and metadata["license"] == "mit"
    assert [(found.metric_type, found.metric_value) for found in results] == list(mine["metrics"].items())
    assert {(found.dataset_type, found.dataset_config, found.dataset_split) for found in results} == {
        ("demo", "as published, history removed", "test")
    }
    assert card.data.eval_results == results
    models = re.findall(r"^\| (\S+) \| 0.2500", text, flags=re.M)
    assert models == ["popularity", "**tiger**", "tiger-paper", "hybrid"]
    assert "0.1250 ± 0.0100" in text and "`hybrid` does better here than this model, without training" in text
    assert recommender.tokenizer.fingerprint in text and "seeds 1, 2" in text and "Trained on `demo`" in text
    assert "/home/me" not in text and "`d_model` | 16" in text and "counts hold validation" not in text
    text = model_card(recommender.state, REPO, [mine, result("hybrid-with-validation", 0.5)])
    assert "`hybrid-with-validation` does better here than this model, without training" in text
    assert "None" not in text


def test_the_card_invents_nothing(recommender):
    recommender.training, recommender.encoder = {}, None
    text = model_card(recommender.state, REPO)
    assert "model-index" not in text and "license:" not in text
    for sentence in (
        "No test results were given",
        "Nothing is recorded of the training",
        "The data set is not recorded",
        "The owner has stated no license",
        "saved without a text encoder",
    ):
        assert sentence in text
    ModelCard(text)


def test_results_that_do_not_belong(recommender, tmp_path):
    with pytest.raises(DataError, match="of other models"):
        model_card(recommender.state, REPO, [result("hybrid", 0.5), result("tiger", 0.1, training={"seed": 4})])
    with pytest.raises(DataError, match="ndcg@10 is nan"):
        model_card(recommender.state, REPO, [result("tiger", float("nan"), training=recommender.training)])
    with pytest.raises(DataError, match="of other models"):  # whose they are is not said
        model_card(recommender.state, REPO, [result("sasrec", 0.5)])
    for content, message in (("{", "not JSON"), ("[1]", "not a results file"), ('{"model": "x"}', "without dataset")):
        (tmp_path / "file.json").write_text(content)
        with pytest.raises(DataError, match=message):
            read_results([tmp_path / "file.json"])
    with pytest.raises(DataError, match="can't be read"):
        read_results([tmp_path / "nowhere.json"])


def test_a_fresh_process_pushes_recommends_and_runs_the_code_of_the_card(hub, recommender, tmp_path):
    """It knows of the Hub by its environment alone."""
    with_ranker(recommender).save_pretrained(tmp_path / "model")
    rows = [result("tiger", 0.125, training=recommender.training), result("popularity", 0.0625)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    push = ["push", "model", REPO, "--private", "--results", "results.json", "--license", "mit", "--message", "v1"]
    recommend = ["recommend", REPO, "--history", "i1", "i2", "-k", "3", "--num_beams", "20", "--json"]
    script = f"""
import re
from huggingface_hub import hf_hub_download
from tiger.cli import main
main({push})
main({recommend})
first, second = re.findall("```python\\n(.*?)```", open(hf_hub_download({REPO!r}, "README.md")).read(), flags=re.S)
exec(first)
recommender = tiger
exec(second)
print(found == recommender.recommend([["i0", "i1"]], k=10, num_beams=50, rank=False, exclude_history=False)[0][0])
print(len(items[0]), recommender.tokenizer.item_ids[-1], type(model).__name__)
"""
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    url, answer, same, last = done.stdout.splitlines()
    published = hub.repositories[REPO]
    assert url == f"{hub.endpoint}/{REPO}/commit/{published.refs['main']}"
    assert published.messages[1:] == ["v1"] and published.private and "items.parquet" not in published.files()
    expected = recommender.recommend([["i1", "i2"]], k=3, num_beams=20)[0][0]
    assert [row["item_id"] for row in json.loads(answer)] == expected
    assert same == "True" and last == "10 new-item TigerT5"
    assert b"model-index" in published.files()["README.md"][0]
    assert published.files()["code_usage.png"][0][1:4] == b"PNG"


def test_command_line_errors(hub, recommender, tmp_path, capsys):
    recommender.save_pretrained(tmp_path / "model")
    for command in (
        ["push", str(tmp_path / "nowhere"), REPO],
        ["push", str(tmp_path / "model"), "other/x"],
        ["push", str(tmp_path / "model"), REPO, "--results", str(tmp_path / "nowhere.json")],
        ["recommend", "me/nothing"],
        ["rank", REPO, "--candidates", "i1", "--revision", "v1"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    main(["push", str(tmp_path / "model"), REPO, "--with_items", "--json"])
    assert json.loads(capsys.readouterr().out)["commit"] == hub.repositories[REPO].refs["main"]
    assert "items.parquet" in hub.repositories[REPO].files() and not hub.repositories[REPO].private


def test_tokenizers_on_the_hub(hub, recommender, tmp_path):
    """From a recommender's repository, and from one of their own; nothing else is fetched."""
    recommender.push_to_hub(REPO)
    for name in (REPO, "me/ids"):
        if name != REPO:
            commit = recommender.tokenizer.push_to_hub(name, private=True, commit_message="ids")
            assert commit.oid == hub.repositories[name].refs["main"] and hub.repositories[name].private
        before = len(hub.requests)
        found = SemanticIdTokenizer.from_pretrained(name)
        assert (
            found.item_ids == recommender.tokenizer.item_ids and found.fingerprint == recommender.tokenizer.fingerprint
        )
        np.testing.assert_array_equal(found.encode([0, 5]), recommender.tokenizer.encode([0, 5]))
        asked = [one for one in hub.requests[before:] if one.endswith(".safetensors") and "/resolve/" in one]
        assert found.quantizer is not None and len(asked) == 2 and "/quantizer/" in asked[0] + asked[1]
    assert AutoTokenizer.from_pretrained(REPO).fingerprint == recommender.tokenizer.fingerprint
    with pytest.raises(DataError, match="a recommender is there.*Push all of it"):
        recommender.tokenizer.push_to_hub(REPO)
    with pytest.raises(DataError, match="me/nothing is neither a directory here nor a repository"):
        SemanticIdTokenizer.from_pretrained("me/nothing")
    with pytest.raises(DataError, match="me/ids has no revision 'v9'"):
        SemanticIdTokenizer.from_pretrained("me/ids", revision="v9")
    with pytest.raises(TypeError, match="padding"):
        SemanticIdTokenizer.from_pretrained("me/ids", padding=True)
    hub.repositories["me/other"] = type(hub.repositories[REPO])()
    hub.repositories["me/other"].commit("main", {"pytorch_model.bin": (b"pickle", False)}, "x")
    with pytest.raises(DataError, match="me/other has no semantic_ids.safetensors"):
        SemanticIdTokenizer.from_pretrained("me/other")


def test_a_subfolder_of_a_repository(hub, recommender, tmp_path):
    recommender.push_to_hub(REPO)
    files = hub.repositories[REPO].files()
    hub.repositories["me/several"] = type(hub.repositories[REPO])()
    within = {f"shops/one/{name}": content for name, content in files.items()}
    hub.repositories["me/several"].commit("main", within | {"model.safetensors": (b"other", False)}, "x")
    before = len(hub.requests)
    loaded = TigerRecommender.from_pretrained("me/several", subfolder="shops/one")
    assert_same_answers(recommender, loaded)
    asked = [one for one in hub.requests[before:] if "resolve" in one and "shops/one" not in one]
    assert not asked
    assert len(SemanticIdTokenizer.from_pretrained("me/several", subfolder="shops/one")) == len(recommender.tokenizer)
    with pytest.raises(DataError, match="me/several has no tiger.json"):
        TigerRecommender.from_pretrained("me/several")
    with pytest.raises(DataError, match="leads out"):
        TigerRecommender.from_pretrained("me/several", subfolder="../other")


def test_a_forced_download(hub, recommender):
    recommender.push_to_hub(REPO)
    TigerRecommender.from_pretrained(REPO)
    before = len(hub.asked("GET /cdn/"))
    TigerRecommender.from_pretrained(REPO)
    assert len(hub.asked("GET /cdn/")) == before
    TigerRecommender.from_pretrained(REPO, force_download=True)
    assert len(hub.asked("GET /cdn/")) > before


def readme(hub, ref="main"):
    return hub.repositories[REPO].files(ref)["README.md"][0].decode()


def write_readme(hub, text):
    published = hub.repositories[REPO]
    published.commit("main", published.files() | {"README.md": (text.encode(), False)}, "by hand")


def test_the_card_keeps_what_the_owner_wrote(hub, recommender):
    recommender.push_to_hub(REPO, license="mit", datasets=["me/shop"])
    first = readme(hub)
    metadata = yaml.safe_load(first.split("---\n")[1])
    assert metadata["pipeline_tag"] == "other" and metadata["library_name"] == "tiger-recommender"
    assert metadata["license"] == "mit" and metadata["datasets"] == ["me/shop"]
    edited = first.replace("tags:", "language: en\ntags:\n- shop").replace("# tiger-demo", "# changed by hand")
    edited = edited.replace("<!-- begin", "Our shop's model.\n\n<!-- begin") + "\nAsk us.\n"
    write_readme(hub, edited)
    recommender.push_to_hub(REPO, commit_message="again")
    again = readme(hub)
    metadata = yaml.safe_load(again.split("---\n")[1])
    assert metadata["license"] == "mit" and metadata["language"] == "en" and metadata["datasets"] == ["me/shop"]
    assert {"shop", "semantic-ids"} <= set(metadata["tags"])
    assert "Our shop's model." in again and again.endswith("Ask us.\n") and "`mit`. The tiger library" in again
    assert "# tiger-demo" in again and "changed by hand" not in again and again.count("<!-- begin") == 1
    recommender.push_to_hub(REPO, license="apache-2.0")
    assert yaml.safe_load(readme(hub).split("---\n")[1])["license"] == "apache-2.0"
    recommender.push_to_hub(REPO, revision="new")
    assert "Ask us." in readme(hub, "new")
    with pytest.raises(DataError, match="'shop' is no data set of the Hub"):
        recommender.push_to_hub(REPO, datasets=["shop"])


def test_a_readme_that_is_not_ours_stays(hub, recommender):
    recommender.push_to_hub(REPO)
    text = "---\nlicense: mit\n---\n\n# Mine\n"
    broken = ("[broken", "date: 2024-13-45", "a: !!timestamp b", "a: !!bool b", "[" * 5000)
    for own in (text, "# Mine\n", *(f"---\n{head}\n---\n" for head in broken)):
        write_readme(hub, own)
        with pytest.warns(UserWarning, match=f"README.md of {REPO} was not written by tiger"):
            recommender.push_to_hub(REPO)
        assert readme(hub) == own
    write_readme(hub, "---\nlicense: mit\n---\n")  # as the Hub's page of new repositories writes it
    recommender.push_to_hub(REPO)
    assert "license: mit" in readme(hub) and "## Use" in readme(hub)
    before_marks = re.sub("<!--.*?-->\n", "", readme(hub))
    write_readme(hub, before_marks)
    recommender.push_to_hub(REPO, commit_message="marks")
    assert "<!-- begin tiger" in readme(hub) and readme(hub).count("## Use") == 1


def test_a_recipe_pushes_the_whole_recommender(hub, tmp_path, monkeypatch, capsys):
    write_demo(tmp_path / "demo", num_items=120, num_users=80, seed=0)
    data = RecommendationData.load(tmp_path / "demo")
    texts = item_texts(data.items)
    encoder = LSAEncoder.fit(texts, dim=16)
    tokenizer = SemanticIdTokenizer.fit(
        encoder.encode(texts), data.item_ids, 2, 16, quantizer="residual-kmeans", progress=False
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    encoder.save_pretrained(tmp_path / "tokenizer" / "encoder")

    def train(*more):
        sizes = "--d_model 16 --d_kv 8 --num_heads 2 --d_ff 32 --num_layers 1 --max_steps 4 --save_steps 2"
        paths = {"dataset": "demo", "tokenizer": "tokenizer", "model_dir": "model", "output_dir": "training"}
        command = [f"--{name}={tmp_path / path}" for name, path in paths.items()]
        command += [*sizes.split(), "--report_to", "none", "--disable_tqdm", "true", *more]
        monkeypatch.setattr(sys, "argv", ["retriever.py", *command])
        retriever.main()
        return capsys.readouterr().out

    with pytest.raises(DataError, match="--hub_model_id"):
        train("--push_to_hub")
    with pytest.raises(DataError, match="can't push to other/x"):
        train("--push_to_hub", "--hub_model_id", "other/x")
    assert not (tmp_path / "training").exists()
    push = ("--push_to_hub", "--hub_model_id", REPO, "--hub_private_repo", "true")
    out = train(*push)
    published = hub.repositories[REPO]
    assert published.private and published.messages[1:] == ["Upload a tiger recommender"]
    assert f"pushed: {hub.endpoint}/{REPO}/commit/{published.refs['main']}" in out
    assert not [name for name in published.files() if "checkpoint" in name or name.endswith(".bin")]
    card = published.files()["README.md"][0].decode()
    assert "| `learning_rate` | 5e-05 |" in card and "| `lr_scheduler_type` | linear |" in card
    histories = [data.item_ids[:3]]
    saved = TigerRecommender.from_pretrained(tmp_path / "model")
    assert saved.recommend(histories)[0] == TigerRecommender.from_pretrained(REPO).recommend(histories)[0]
    # The finished run, started again: to another branch, and to where it is already.
    assert "is a finished run" in train(*push, "--hub_revision", "v1") and "v1" in published.refs
    train(*push)
    assert len(published.messages) == 3
