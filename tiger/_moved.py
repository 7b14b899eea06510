"""Deprecated module paths and names: they work for one release, with a warning that gives the new ones."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable)

MOVED = {
    "tiger.app": (
        "tiger.serving.gradio_app",
        "tiger.serving.page.handlers",
        "tiger.serving.page.cards",
        "tiger.serving.page.branches",
        "tiger.serving.page.style",
    ),
    "tiger.arguments": ("tiger.training.arguments",),
    "tiger.baselines": (
        "tiger.evaluation.baselines",
        "tiger.data.cooccurrence",
    ),
    "tiger.batch": ("tiger.serving.offline",),
    "tiger.batching": ("tiger.serving.batcher",),
    "tiger.candidate_columns": ("tiger.rankers.two_stage.features",),
    "tiger.candidates": ("tiger.rankers.two_stage.candidates",),
    "tiger.catalogue": ("tiger.recommender.catalog_updates",),
    "tiger.catalogue_ranker": ("tiger.rankers.click.ranker",),
    "tiger.cli_items": ("tiger.cli.items",),
    "tiger.cli_serving": ("tiger.cli.serving",),
    "tiger.code_tree": ("tiger.semantic_ids.code_tree",),
    "tiger.drift": ("tiger.semantic_ids.drift",),
    "tiger.evaluate_metrics": ("tiger.evaluation.hf_metrics",),
    "tiger.examples": (
        "tiger.retriever.dataset",
        "tiger.data.sequences",
        "tiger.retriever.data_collator",
    ),
    "tiger.files": ("tiger.utils.files",),
    "tiger.generation": ("tiger.retriever.beam_search",),
    "tiger.given_items": ("tiger.recommender.catalog_updates",),
    "tiger.hub": ("tiger.recommender.hub",),
    "tiger.impressions": ("tiger.rankers.click.dataset",),
    "tiger.item_features": ("tiger.rankers.click.features", "tiger.rankers.click.hashes"),
    "tiger.live": ("tiger.serving.live", "tiger.serving.answers"),
    "tiger.log_vectors": ("tiger.embeddings.item_vectors",),
    "tiger.manifest": ("tiger.recommender.manifest",),
    "tiger.markdown": ("tiger.utils.markdown",),
    "tiger.metrics": ("tiger.evaluation.metrics", "tiger.evaluation.significance"),
    "tiger.model_card": ("tiger.recommender.model_card",),
    "tiger.optimizer": (
        "tiger.retriever.optimizer",
        "tiger.rankers.click.optimizer",
    ),
    "tiger.packed_ids": ("tiger.semantic_ids.packing",),
    "tiger.packed_t5": ("tiger.retriever.inference_model",),
    "tiger.pair_table": ("tiger.data.cooccurrence",),
    "tiger.quantisation_report": ("tiger.quantizers.report",),
    "tiger.ranker": (
        "tiger.rankers.click.model",
        "tiger.rankers.click.trainer",
    ),
    "tiger.recommender_files": ("tiger.recommender.checkpoint",),
    "tiger.residual_kmeans": (
        "tiger.quantizers.residual_kmeans",
        "tiger.quantizers.kmeans",
        "tiger.quantizers.base",
    ),
    "tiger.rqvae": (
        "tiger.quantizers.rqvae",
        "tiger.quantizers.auto",
    ),
    "tiger.run_record": ("tiger.training.run_record",),
    "tiger.search_options": ("tiger.retriever.search_options",),
    "tiger.service": (
        "tiger.serving.service",
        "tiger.serving.settings",
        "tiger.serving.schemas",
        "tiger.serving.monitoring",
        "tiger.serving.edge",
        "tiger.serving.responses",
    ),
    "tiger.shares": ("tiger.retriever.search",),
    "tiger.t5": (
        "tiger.retriever.model",
        "tiger.retriever.child_softmax",
        "tiger.retriever.config",
    ),
    "tiger.terminal": ("tiger.cli.common",),
    "tiger.token_starts": (
        "tiger.retriever.initialization",
        "tiger.embeddings.item_vectors",
    ),
    "tiger.tokenizer": ("tiger.semantic_ids.tokenizer",),
    "tiger.trie": ("tiger.semantic_ids.trie",),
    "tiger.two_stage": ("tiger.rankers.two_stage.ranker",),
    "tiger.user_beams": ("tiger.retriever.search",),
    "tiger.vocabulary": ("tiger.semantic_ids.vocabulary",),
    "tiger.word_vectors": ("tiger.embeddings.item_vectors",),
}

# Names of today's modules that were other names before; `old_names` gives a module its old ones.
RENAMED = {
    "tiger.embeddings.item_vectors.log_vectors": "tiger.embeddings.item_vectors.cooccurrence_vectors",
    "tiger.embeddings.item_vectors.word_vectors": "tiger.embeddings.item_vectors.tfidf_vectors",
    "tiger.evaluation.baselines.evaluate_yardsticks": "tiger.evaluation.baselines.evaluate_baselines",
    "tiger.quantizers.report.quantisation_report": "tiger.quantizers.report.quantization_report",
    "tiger.rankers.click.dataset.labelled_impressions": "tiger.rankers.click.dataset.labeled_impressions",
    "tiger.rankers.click.ranker.CatalogueRanker": "tiger.rankers.click.ranker.ClickRanker",
    "tiger.rankers.two_stage.features.CandidateColumns": "tiger.rankers.two_stage.features.CandidateFeatures",
    "tiger.rankers.two_stage.features.Question": "tiger.rankers.two_stage.features.RankingBatch",
    "tiger.recommender.catalog_updates.GivenItems": "tiger.recommender.catalog_updates.ItemBatch",
    "tiger.cli.common.told_warnings": "tiger.cli.common.print_warnings",
    "tiger.serving.gradio_app.shares_html": "tiger.serving.page.branches.shares_html",
    "tiger.serving.gradio_app.answer_html": "tiger.serving.page.cards.answer_html",
    "tiger.serving.gradio_app.code_chips": "tiger.serving.page.cards.code_chips",
    "tiger.serving.gradio_app.item_card": "tiger.serving.page.cards.item_card",
    "tiger.retriever.config.chooses_among_siblings": "tiger.retriever.config.uses_child_softmax",
    "tiger.retriever.data_collator.siblings": "tiger.retriever.data_collator.child_targets",
    "tiger.retriever.initialization.start_as_neighbours": "tiger.retriever.initialization.init_nearest_neighbor",
    "tiger.retriever.initialization.start_from_items": "tiger.retriever.initialization.init_token_embeddings",
    "tiger.retriever.model.Siblings": "tiger.retriever.child_softmax.ChildTargets",
    "tiger.retriever.optimizer.orthogonalise": "tiger.retriever.optimizer.orthogonalize",
    "tiger.retriever.TigerTrainer": "tiger.recommender.trainer.TigerTrainer",
    "tiger.retriever.trainer.TigerTrainer": "tiger.recommender.trainer.TigerTrainer",
    "tiger.retriever.search.CataloguePart": "tiger.retriever.search.CatalogPart",
    "tiger.retriever.search.shared_places": "tiger.retriever.search.merge_with_quota",
}


class _OldModule(ModuleType):
    """Stand-in for a module that has moved: looks names up in the new modules."""

    def __getattr__(self, name: str):
        if not name.startswith("__"):
            for new in MOVED[self.__name__]:
                module = import_module(new)
                if hasattr(module, name):
                    return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({name for new in MOVED[self.__name__] for name in dir(import_module(new))})


class _OldPaths(MetaPathFinder, Loader):
    """Import hook for the old paths; last in ``sys.meta_path``, so that it never hides a module that exists."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(
            f"{module.__name__} has moved: import from {' or '.join(new)}. The old path goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        for name in new:
            import_module(name)  # what can't be imported fails here and not at its first use


def install() -> None:
    """Make the old paths importable."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())


def old_names(module: str, stacklevel: int = 2) -> Callable[[str], object]:
    """``__getattr__`` of a module: resolves its old names in ``RENAMED``, with a warning.

    Args:
        module: its ``__name__``.
        stacklevel: of the warning, 2 where the module calls it itself.
    """

    def get(name: str) -> object:
        old = f"{module}.{name}"
        if old not in RENAMED:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = RENAMED[old].rpartition(".")
        warnings.warn(
            f"{old} is now {RENAMED[old]}; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
        return getattr(import_module(home), new)

    return get


def old_member(owner: object, old: str, new: str) -> Any:
    """Return an object's attribute or method ``new`` that was read by its ``old`` name, with a warning."""
    warnings.warn(
        f"{type(owner).__name__}.{old} is now {new}; the old name goes with the next release.",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(owner, new)


def old_arguments(**renamed: str) -> Callable[[F], F]:
    """Decorator: old keyword arguments, given as ``old="new"``, are passed on by their new names, with a warning."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args, **kwargs):
            for old, new in renamed.items():
                if old in kwargs:
                    warnings.warn(
                        f"the argument {old} of {function.__qualname__} is now {new}; the old name goes with the next "
                        "release.",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast(F, call)

    return decorate
