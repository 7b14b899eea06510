"""Old module paths: for one release they import, warn and give the same objects."""

import ast
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest

from tiger._moved import MOVED, RENAMED, old_arguments

EXTRAS = {"tiger.service": "fastapi", "tiger.app": "gradio"}


def public_names(module: str) -> list[str]:
    """What a module's file defines."""
    with open(find_spec(module).origin) as file:
        body = ast.parse(file.read()).body
    names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    for node in body:
        if isinstance(node, ast.Assign):
            names += [name.id for name in ast.walk(node.targets[0]) if isinstance(name, ast.Name)]
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_gives_the_same_objects(old, monkeypatch):
    if old in EXTRAS:
        pytest.importorskip(EXTRAS[old])
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=rf"{old} has moved") as caught:
        module = import_module(old)
    (warning,) = [one for one in caught if "has moved" in str(one.message)]
    assert warning.filename.endswith("test_moved.py") or "importlib" in warning.filename
    for new in MOVED[old]:
        assert new in str(warning.message)
        names = public_names(new)
        assert names and set(names) <= set(dir(module))
        for name in names:
            assert getattr(module, name) is getattr(import_module(new), name)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name
    with pytest.raises(ImportError):
        exec(f"from {old} import no_such_name")


def test_every_way_to_import_works():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import tiger.trie
        from tiger.optimizer import MuonAdamW, RowwiseAdagradAdamW

        from tiger import t5
    from tiger.rankers.click import optimizer as click
    from tiger.retriever import model
    from tiger.retriever import optimizer as retriever

    assert t5.TigerT5 is model.TigerT5
    assert (MuonAdamW, RowwiseAdagradAdamW) == (retriever.MuonAdamW, click.RowwiseAdagradAdamW)
    assert tiger.trie.SemanticIdTrie is tiger.SemanticIdTrie


def test_modules_that_became_packages_keep_their_names():
    names = {
        "tiger.cli": "friendly_errors main",
        "tiger.data": "DataError LeaveOneOut RecommendationData SECONDS_PER_DAY Sequences TemporalSplit item_table "
        "read_events read_items",
        "tiger.embeddings": "DEFAULT_ENCODER LSAEncoder MAX_TEXT SentenceEncoder check_embeddings check_texts "
        "item_texts load_embeddings load_encoder",
        "tiger.recommender": "TigerRecommender",
        "tiger.retriever": "check_pair t5_config",
    }
    for package, public in names.items():
        module = import_module(package)
        assert all(callable(getattr(module, name)) or name.isupper() for name in public.split())
        assert set(public.split()) <= set(dir(module))


def test_no_old_path_hides_a_module():
    assert not [old for old in MOVED if find_spec(old).origin]
    with pytest.raises(ModuleNotFoundError):
        import_module("tiger.no_such_module")


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_gives_the_same_object(old):
    module, _, name = old.rpartition(".")
    home, _, new = RENAMED[old].rpartition(".")
    module = import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{old} is now {RENAMED[old]}") as caught:
        found = getattr(module, name)
    assert found is getattr(import_module(home), new)
    assert caught[0].filename.endswith("test_moved.py") and name not in dir(module)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name


def test_old_arguments_are_passed_on():
    @old_arguments(among="allowed")
    def choose(count, allowed=None):
        """Choose."""
        return count, allowed

    assert choose.__doc__ == "Choose." and choose(1, allowed=2) == choose(1, 2) == (1, 2)
    with pytest.warns(DeprecationWarning, match="argument among of .*choose is now allowed") as caught:
        assert choose(1, among=2) == (1, 2)
    assert caught[0].filename.endswith("test_moved.py")
