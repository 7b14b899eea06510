"""The code on the pages of docs/ and in the README runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tiger
from data.demo import write_demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: str) -> list[str]:
    """Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path) -> None:
    """In a process of its own: the examples register classes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    script = folder / "example.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_examples_of_encoder_quantizer_and_ranker(tmp_path):
    write_demo(tmp_path / "datasets" / "demo", 200, 300, seed=0)
    code = blocks((ROOT / "docs" / "extend.md").read_text())
    assert len(code) == 5
    run("\n".join(code), tmp_path)
    assert (tmp_path / "with-trigrams" / "tiger.json").exists()
    assert (tmp_path / "with-popularity" / "tiger.json").exists()


def test_csv_files_become_a_dataset(tmp_path):
    (code,) = [code for code in blocks((ROOT / "docs" / "data.md").read_text()) if "read_csv" in code]
    (tmp_path / "datasets" / "mine").mkdir(parents=True)
    (tmp_path / "items.csv").write_text("item_id,title,price\n01,Tent,120.5\n02,Lamp,25\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n7,01,1700000000\n7,02,1700086400\n")
    run(code, tmp_path)
    data = tiger.RecommendationData.load(tmp_path / "datasets" / "mine")
    assert data.item_ids == ["01", "02"] and data.sequences.items.tolist() == [0, 1]
    assert pq.read_table(tmp_path / "datasets" / "mine" / "items.parquet")["price"].to_pylist() == [120.5, 25]


def test_the_quickstart_needs_no_training(tmp_path):
    run("\n".join(blocks((ROOT / "docs" / "quickstart.md").read_text())), tmp_path)


def test_the_public_names_are_those_of_the_pages():
    for page in (README, *(page.read_text() for page in PAGES)):
        for code in blocks(page):
            for names in re.findall(r"^from tiger import (?:\((.*?)\)|(.*?)$)", code, flags=re.DOTALL | re.MULTILINE):
                for name in re.findall(r"\w+", "".join(names)):
                    assert getattr(tiger, name)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


def test_commands_exist():
    from tiger.cli.main import main

    text = "\n".join([README, *(page.read_text() for page in PAGES)])
    for verb in set(re.findall(r"^tiger ([a-z]+)", text, flags=re.MULTILINE)):
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert end.value.code == 0
    for script in re.findall(r"^python (\S+\.py)", text, flags=re.MULTILINE):
        assert (ROOT / script).is_file()
    for recipe in re.findall(r"(?<![\w/])(recipes/[\w/]+\.(?:yaml|py))", text):
        assert (ROOT / recipe).is_file(), recipe
