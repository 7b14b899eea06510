"""What is loaded when: heavy packages on use, and a line that names the extra where one is missing."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tiger.cli.main import main
from tiger.utils.extras import EXTRAS, extras_named

ROOT = Path(__file__).parents[1]
FIXTURE = str(ROOT / "tests" / "fixtures" / "model_f1fc351" / "codes")
PYTHONPATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
HEAVY = ("lightgbm", "matplotlib", "datasets", "gradio", "evaluate", "sklearn", "pandas", "tensorboard", "fastapi")


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh process has loaded after this code."""
    script = f"{code}\nimport json, sys; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_the_recommender_is_imported_without_what_training_needs():
    loaded = loaded_after("import tiger; tiger.TigerRecommender")
    assert {"torch", "transformers", "pyarrow"} <= loaded and not loaded & set(HEAVY)


def test_help_loads_no_torch():
    code = "from tiger.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    loaded = loaded_after(code)
    assert "tiger" in loaded and not loaded & {"torch", "transformers", *HEAVY}


def test_a_saved_recommender_answers_where_no_extra_is_installed():
    """Packages that only extras bring are hidden from the process."""
    code = f"""
import sys
from importlib.machinery import PathFinder

class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {sum(EXTRAS.values(), ())!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Core if finder is PathFinder else finder for finder in sys.meta_path]
import tiger
recommender = tiger.TigerRecommender.from_pretrained({FIXTURE!r})
items, _ = recommender.recommend([recommender.tokenizer.item_ids[:2]], k=3, num_beams=9)
assert len(items[0]) == 3
recommender.add_items(["new"], table=[{{"title": "A tent"}}])
"""
    assert not loaded_after(code) & {package for packages in EXTRAS.values() for package in packages}


@pytest.mark.parametrize(
    ("verb", "extra", "package"),
    [
        (("train", "nowhere", "--out", "out"), "train", "accelerate"),
        (("evaluate", FIXTURE, FIXTURE), "train", "datasets"),
        (("serve", FIXTURE), "serve", "fastapi"),
        (("app", FIXTURE), "app", "gradio"),
    ],
)
def test_a_verb_names_the_extra_that_it_lacks(verb, extra, package, monkeypatch, capsys):
    for module in [name for name in sys.modules if name.startswith("tiger.serving.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # as if it was not installed
    with pytest.raises(SystemExit) as stop:
        main(list(verb))
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and f"error: {package} is missing" in shown
    assert f"tiger-recommender[{extra}]" in shown and "Traceback" not in shown


def test_other_errors_pass_through():
    with pytest.raises(ModuleNotFoundError), extras_named():
        import no_such_package  # noqa: F401
    with pytest.raises(KeyError), extras_named():
        raise KeyError


def test_extras_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        found = {re.match(r"[\w-]+", line)[0].lower().replace("-", "_") for line in requirements}
        # A family of packages in one namespace.
        found = {"opentelemetry" if name.startswith("opentelemetry_") else name for name in found}
        return found - {"tiger_recommender"}

    optional = project["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        assert names(optional[extra]) == set(packages)
    assert not names(project["dependencies"]) & {package for packages in EXTRAS.values() for package in packages}
    (everything,) = [line for line in optional["dev"] if line.startswith("tiger-recommender")]
    assert everything == "tiger-recommender[all,otel]" and optional["all"] == ["tiger-recommender[train,serve,app]"]
