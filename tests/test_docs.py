"""The pages of docs/ and the README: their code runs, their commands parse, their links and menus lead somewhere."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
from argparse import ArgumentParser
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import tiger
from data.demo import write_demo
from tests.processes import run_python
from tiger.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WRITTEN = [ROOT / "README.md", *PAGES]
# Pages of figures that the site takes in.
FIGURES = sorted((ROOT / "recipes" / "results").rglob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
# What a notebook has to leave behind; run after its own code.
OUTCOMES = {
    "demo": """
assert len(items[0]) == 5 and not set(items[0]) & set(history) and set(items[0]) <= set(titles)
assert codes(first)[0] == codes(alike[0])[0] and added == ["new-1"] and "new-1" in tiger.tokenizer.item_ids
""",
    "own_data": """
assert (report.users, report.items, report.events) == (200, 60, 1400)
assert len(set(items[0])) == 5 and {item.split("-")[0] for item in items[0][:2]} == {"tent"}
kept = TigerRecommender.from_pretrained("runs/own/model").tokenizer.item_ids
assert items[0][0] not in again[0] and "tent-new" in kept and items[0][0] not in kept and len(kept) == 60
""",
}


def blocks(page: str) -> list[str]:
    """Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path) -> None:
    """In a process of its own: the examples register classes."""
    script = folder / "example.py"
    script.write_text(code)
    done = run_python(script, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]


def test_examples_of_encoder_quantizer_and_ranker(tmp_path):
    write_demo(tmp_path / "datasets" / "demo", 200, 300, seed=0)
    code = blocks((ROOT / "docs" / "extend.md").read_text())
    assert len(code) == 5
    run("\n".join(code), tmp_path)
    assert (tmp_path / "with-trigrams" / "tiger.json").exists()
    assert (tmp_path / "with-popularity" / "tiger.json").exists()


def test_csv_files_become_a_dataset(tmp_path):
    (code,) = [code for code in blocks((ROOT / "docs" / "data.md").read_text()) if "import_tables" in code]
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


def script(name: str):
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """Anchors of a page's headings, as sites for code make them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def dead_links(page: Path, text: str) -> list[str]:
    """Links to files that there are not, or to headings that a page lacks."""
    dead = []
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", prose(text)):
        if "://" in path:
            continue
        target = page.parent / path if path else page
        there = text if target == page else target.read_text() if target.suffix == ".md" and target.is_file() else ""
        if not (target == page or target.exists()) or (anchor and anchor not in anchors(there)):
            dead.append(f"{path}#{anchor}" if anchor else path)
    return dead


@pytest.mark.parametrize("page", [*WRITTEN, *FIGURES], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(page):
    assert dead_links(page, page.read_text()) == []


def test_dead_links_would_be_seen():
    text = "# One `two`, three\n[a](#one-two-three) [b](data.md#faq)\n```\n# in code\n```\n"
    assert dead_links(DOCS / "new.md", text) == []
    text += "[c](#in-code) [d](gone.md) [e](data.md#gone) [f](https://example.com/#x)"
    assert dead_links(DOCS / "new.md", text) == ["#in-code", "gone.md", "data.md#gone"]


class _Tagless(yaml.SafeLoader):
    """YAML whose Python tags are left as None: names of functions, which only mkdocs needs."""


_Tagless.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: None)


def menu(entries: list) -> list[str]:
    """Pages of a menu and its parts, in order."""
    found = []
    for entry in entries:
        (below,) = entry.values()
        found += menu(below) if isinstance(below, list) else [below]
    return found


def test_every_page_is_in_the_menu_once():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), _Tagless)
    own = [entry for entry in menu(settings["nav"]) if (DOCS / entry).is_file()]
    assert sorted(own) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    taken = [ROOT / entry for entry in menu(settings["nav"]) if entry not in own]
    links = script("site_links")
    assert taken and set(taken) == {file for file in links.taken_files() if file.suffix == ".md"}
    for hook in settings["hooks"]:
        assert (ROOT / hook).is_file()


def test_the_first_page_and_the_readme_lead_to_every_other():
    for page in PAGES:
        for start in (DOCS / "index.md", ROOT / "README.md"):
            link = f"]({os.path.relpath(page, start.parent)}"
            assert page == start or link in start.read_text(), f"{start.name} has no link to {page.name}"


def test_links_in_the_site():
    """Pages and pictures outside docs/ are taken into the site, other files are named."""
    links = script("site_links")
    page = DOCS / "paper.md"
    text = "![a](../recipes/results/beams.png) [b](../recipes/results/README.md#x) "
    text += "[c](../tiger/cli/main.py) [d](data.md#faq)"
    assert links.with_site_links(text, page) == (
        "![a](recipes/results/beams.png) [b](recipes/results/README.md#x) c [d](data.md#faq)"
    )
    page = ROOT / "recipes" / "results" / "README.md"
    assert (
        links.with_site_links("[a](../../docs/results.md) [b](beams.png)", page)
        == "[a](../../results.md) [b](beams.png)"
    )
    assert links.target_of(page, "../../../elsewhere.md") is None
    assert ROOT / "recipes" / "results" / "paper" / "curves.png" in links.taken_files()


def test_the_reference_has_every_public_name():
    names = re.findall(r"^::: tiger\.(\w+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(names) == sorted(tiger.__all__)


def test_recorded_commands_on_the_page():
    reproduce = script("reproduce")
    assert reproduce.page() == reproduce.PAGE.read_text(), "run python docs/reproduce.py"
    found = {command: (made, gpu) for command, made, gpu in reproduce.recorded()}
    assert found["python recipes/speed/training_graphs.py"] == (["`speed/training_graphs`"], True)
    assert found["python recipes/speed/indexing.py"] == (["`speed/indexing`"], False)
    command = "python x.py --dataset ../shared/data/amazon/beauty --embeddings ../shared/data/amazon/beauty/a.b"
    assert reproduce.readable(command) == "python x.py --dataset datasets/beauty --embeddings datasets/beauty/a.b"
    assert reproduce.readable("--dataset ../shared/data/movielens_1m --x") == "--dataset datasets/movielens_1m --x"
    assert ".." not in reproduce.table()


def commands(page: str) -> list[list[str]]:
    """Words of the `tiger` commands in a page's blocks, without pipes, redirections and comments."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        for line in block.splitlines() if language in ("", "console", "bash") else ():
            line = re.sub(r"\.\.\.", "", line.removeprefix("$ "))
            if re.search(r"(^|\| *)tiger [a-z]", line):
                words = shlex.split(line, comments=True)
                words = words[words.index("tiger") + 1 :]
                ends = [at for at, word in enumerate(words) if word in ("|", "<", ">", "&&", ";")]
                found.append(words[: min(ends, default=len(words))])
    return found


class _Parsed(Exception):
    """A command line has been parsed, and is not run."""


def parsed(words: list[str], monkeypatch) -> str:
    """What the parser says against a command; empty: nothing."""
    parse = ArgumentParser.parse_args

    def stop(self, *args, **options):
        raise _Parsed(parse(self, *args, **options))

    said = StringIO()
    with monkeypatch.context() as patched, redirect_stderr(said):
        patched.setattr(ArgumentParser, "parse_args", stop)
        try:
            main(words)
        except _Parsed:
            return ""
        except SystemExit:
            return said.getvalue().splitlines()[-1]
    raise AssertionError("nothing was parsed")


def script_options(page: str) -> list[tuple[str, str]]:
    """Scripts of the `python recipes/...` commands on a page, each with an option that it is given."""
    found = re.findall(r"python ((?:recipes|data)/[\w/]+\.py)([^`\n;#|]*)", page)
    return [(script, option) for script, rest in found for option in re.findall(r" --([a-z][\w-]*)", rest)]


def test_options_of_scripts_exist():
    """By their names: to parse them all would import torch once for each."""
    settings = [*(ROOT / "tiger" / "training").glob("*.py"), *(ROOT / "tiger" / "data" / "importing").glob("*.py")]
    shared = "".join(file.read_text() for file in [*settings, *(ROOT / "data").glob("*.py")])
    given = {pair for page in WRITTEN for pair in script_options(page.read_text())}
    for name, option in given:
        own = (ROOT / name).read_text() + (shared if re.match(r"recipes/\w+\.py|data/", name) else "")
        beside = [(ROOT / name).with_name(f"{one}.py") for one in re.findall(r"^from (\w+) import", own, re.M)]
        own += "".join(file.read_text() for file in beside if file.exists())  # arguments that scripts share
        assert re.search(rf"\b{option}\b", own), f"{name} --{option}"
    assert len(given) > 40 and ("recipes/speed/gpu.py", "sections") in given


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_commands_of_blocks_parse(page, monkeypatch):
    wrong = {shlex.join(words): parsed(words, monkeypatch) for words in commands(page.read_text())}
    assert not {command: said for command, said in wrong.items() if said}


def test_wrong_commands_would_be_seen(monkeypatch):
    page = "```\ntiger items add m f.csv  # x\ncut -f1 a | tiger recommend m --history - --json > b\ntiger app\n```\n"
    assert commands(page) == [
        ["items", "add", "m", "f.csv"],
        ["recommend", "m", "--history", "-", "--json"],
        ["app"],
    ]
    assert [bool(parsed(words, monkeypatch)) for words in commands(page)] == [False, False, True]
    assert "unrecognized arguments: --loud" in parsed(["app", "m", "--loud"], monkeypatch)


def test_verbs_and_options_in_the_text_exist():
    texts: dict[str, str] = {}
    for page in WRITTEN:
        for words in re.findall(r"`tiger ([a-z][^`]*)`", prose(page.read_text())):
            words = words.split()
            verb = words[: 2 if words[0] == "items" and len(words) > 1 else 1]
            if shlex.join(verb) not in texts:
                said = StringIO()
                with redirect_stdout(said), pytest.raises(SystemExit) as end:
                    main([*verb, "--help"])
                assert end.value.code == 0, f"{page.name}: tiger {shlex.join(verb)}"
                texts[shlex.join(verb)] = said.getvalue()
            for option in (word for word in words if re.match(r"--?[a-z]", word)):
                assert option in texts[shlex.join(verb)], f"{page.name}: tiger {shlex.join(words)}"
    assert len(texts) > 8


def test_scripts_and_recipes_exist():
    # The list of architecture.md, which names files from tiger/ on, is written from the files.
    text = "\n".join(page.read_text() for page in WRITTEN if page.name != "architecture.md")
    for file in re.findall(r"(?<![\w/-])((?:recipes|data|docs|tests|tiger)/[\w/]+\.(?:yaml|py|sh))", text):
        assert (ROOT / file).is_file(), file
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def on_the_model_of(notebook: str) -> list[str]:
    """Code of the page on catalog updates, for the recommender that a notebook leaves."""
    if notebook != "own_data":
        return []
    (code,) = blocks((DOCS / "catalog_updates.md").read_text())
    return [code.replace("runs/mine/model", "runs/own/model"), "assert len(tiger.tokenizer) == 60"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run_and_hold_no_outputs(notebook, tmp_path):
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 4
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
    place = tmp_path / "docs" / "notebooks"
    place.mkdir(parents=True)
    (tmp_path / "data").symlink_to(ROOT / "data")
    run("\n".join([*code, OUTCOMES[notebook.stem], *on_the_model_of(notebook.stem)]), place)


def steps_of(workflow: dict) -> list[dict]:
    """Steps of a workflow's jobs; a job that is a workflow itself counts as one."""
    jobs = workflow["jobs"].values()
    return [step for job in jobs for step in ([{"uses": job["uses"]}] if "uses" in job else job["steps"])]


WORKFLOWS = {
    file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_workflows_run_what_there_is(name):
    workflow, makefile = WORKFLOWS[name], (ROOT / "Makefile").read_text()
    assert workflow["name"] == name and workflow["permissions"] == {"contents": "read"}
    for step in steps_of(workflow):
        if "uses" in step:
            local = step["uses"].startswith("./")
            assert (ROOT / step["uses"]).is_file() if local else re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step["uses"])
        for target in re.findall(r"\bmake (\S+)", step.get("run", "")):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
        for file in re.findall(r"[\w./-]+\.(?:txt|toml|py)\b", step.get("run", "")):
            assert (ROOT / file).is_file(), file
        assert step.keys() & {"uses", "run"}
    for job in workflow["jobs"].values():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= workflow["jobs"].keys()


def test_workflows_test_document_and_publish():
    on = {name: workflow[True] for name, workflow in WORKFLOWS.items()}  # to YAML 1.1, `on` is a truth
    assert set(WORKFLOWS) == {"tests", "docs", "publish"} and on["publish"] == {"push": {"tags": ["v*"]}}
    pythons = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13"]
    project = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={pythons[0]}"' in project and f'version = "{tiger.__version__}"' in project
    runs = {name: " ".join(step.get("run", "") for step in steps_of(one)) for name, one in WORKFLOWS.items()}
    for name, target in (("tests", "test"), ("docs", "docs")):  # or the Makefile would install torch with CUDA
        assert runs[name].index("--torch-backend cpu") < runs[name].index(f"make {target}")
    last = WORKFLOWS["publish"]["jobs"]["publish"]
    assert last["permissions"] == {"id-token": "write"} and set(last["needs"]) == {"tests", "build"}
    assert "secrets" not in json.dumps([*WORKFLOWS.values()], default=str)
    # The step that compares tag and version, on this version and on another.
    (step,) = [step for step in WORKFLOWS["publish"]["jobs"]["build"]["steps"] if "tag" in step.get("name", "")]
    for tag, code in ((f"v{tiger.__version__}", 0), ("v9.9.9", 1)):
        environment = os.environ | {"GITHUB_REF_NAME": tag}
        assert subprocess.run(["bash", "-e", "-c", step["run"]], cwd=ROOT, env=environment).returncode == code


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == tiger.__version__
    assert [one["url"] for one in citation["references"]] == [
        "https://arxiv.org/abs/2305.05065",
        "https://arxiv.org/abs/2306.08121",
    ]
