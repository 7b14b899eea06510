"""Old module paths: for one release they import, warn and give the same objects."""

import ast
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest

from tiger._moved import MOVED

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
        "tiger.retriever": "TigerTrainer check_pair t5_config",
    }
    for package, public in names.items():
        module = import_module(package)
        assert all(callable(getattr(module, name)) or name.isupper() for name in public.split())
        assert set(public.split()) <= set(dir(module))


def test_no_old_path_hides_a_module():
    assert not [old for old in MOVED if find_spec(old).origin]
    with pytest.raises(ModuleNotFoundError):
        import_module("tiger.no_such_module")


def test_old_names_and_arguments_give_the_new_ones():
    from tiger._moved import old_arguments
    from tiger.rankers.click import ranker

    with pytest.warns(
        DeprecationWarning, match="CatalogueRanker is now tiger.rankers.click.ranker.ClickRanker"
    ) as caught:
        assert ranker.CatalogueRanker is ranker.ClickRanker
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="no_such_name"):
        ranker.no_such_name

    @old_arguments(old="new")
    def double(new: int) -> int:
        return 2 * new

    with pytest.warns(DeprecationWarning, match="the argument old of .*double is now new") as caught:
        assert double(old=4) == 8
    assert caught[0].filename == __file__ and double(new=4) == double(4) == 8
