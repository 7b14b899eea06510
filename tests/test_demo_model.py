"""The recommender that comes with the library: small, whole, and found by the name demo."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

import tiger
from tiger.cli.main import main
from tiger.recommender.manifest import DEMO_MODEL, find_folder, writable_folder
from tiger.recommender.recommender import TigerRecommender


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_small_and_names_no_machine():
    files = [file for file in DEMO_MODEL.rglob("*") if file.is_file()]
    assert DEMO_MODEL.parent == Path(tiger.__file__).parent
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for file in files:
        if file.suffix == ".json":  # no absolute path of whoever made it
            assert not re.findall(r'"/[^"]*"', file.read_text()), file


def test_it_recommends(elsewhere):
    recommender = TigerRecommender.from_pretrained("demo")
    ids = recommender.tokenizer.item_ids
    assert len(ids) == 400 and recommender.encoder is not None
    (tent,) = [next(item for item, title in zip(ids, recommender.titles(ids)) if "Tent" in title)]
    (items,), scores = recommender.recommend([[tent]], k=5)
    assert len(set(items)) == 5 and tent not in items and (scores[0][:-1] >= scores[0][1:]).all()
    # Learned: of the shop's departments, those of the first answers are that of the history more often than by chance.
    categories = dict(zip(ids, recommender.items["categories"].to_pylist()))
    department = categories[tent].split(" > ")[0]
    everything = [path.split(" > ")[0] == department for path in categories.values()]
    found = [categories[item].split(" > ")[0] == department for item in items]
    assert sum(found) / len(found) > 2 * sum(everything) / len(everything)
    assert recommender.add_items(["new"], table=[{"title": "Folding lantern", "price": 12.5}]) == ["new"]


def test_a_directory_of_that_name_wins(elsewhere, capsys):
    assert find_folder("demo") == DEMO_MODEL and writable_folder("demo") == Path("demo")
    shutil.copytree(DEMO_MODEL, elsewhere / "demo" / "model")
    own = TigerRecommender.from_pretrained("demo/model")
    own.remove_items(own.tokenizer.item_ids[:300])
    own.save_pretrained("demo/model")
    assert find_folder("demo") == writable_folder("demo") == Path("demo/model")
    assert len(TigerRecommender.from_pretrained("demo").tokenizer) == 100


def test_the_commands_know_it_and_leave_it_as_it_is(elsewhere, capsys):
    def run(*words, code=0):
        with pytest.raises(SystemExit) if code else nullcontext():
            main([*words])
        return capsys.readouterr()

    found = json.loads(run("info", "demo", "--json").out)
    assert found["try"].startswith("tiger recommend demo --history ")
    ids = found["try"].split()[-2:]
    assert found["items"] == 400 and found["ranker"] == "none" and found["levels"] == "2 of 32 codes"
    assert "saved" not in found and "age" not in found  # its files say when it was installed
    shown = run("info", "demo").out
    assert "    items  400\n" in shown and found["digest"] in shown and "epochs 12" in shown
    answer = json.loads(run("recommend", "demo", "--history", *ids, "-k", "3", "--json").out)
    assert len(answer) == 3 and all(row["title"] for row in answer)
    assert "is not a directory" in run("items", "remove", "demo", ids[0], code=2).err
    assert "--save writes to a directory" in run("serve", "demo", "--save", code=2).err
