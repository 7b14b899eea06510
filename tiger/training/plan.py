"""Plan of a run: the steps of a recipe and their settings, all checked before the first step.

A *recipe* is a folder of YAML files, one per step; ``default`` and ``paper`` come with the library.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from tiger.data.splits import ALL, LEAVE_ONE_OUT, SPLITS
from tiger.quantizers.auto import quantizer_class
from tiger.rankers.two_stage.choice import KEPT
from tiger.retriever.config import MAX_HASHED_ROWS, MAX_RECENT_ITEMS, OUTPUT_SOFTMAX, softmax_of_tokens
from tiger.retriever.search_options import MAX_BEAMS, check_value
from tiger.semantic_ids.vocabulary import VOCABULARIES
from tiger.training.arguments import known_keys, merged, read_arguments, read_yaml
from tiger.training.evaluation import SCRIPT_KEYS, EvaluationArguments
from tiger.training.learning import check_evaluations
from tiger.training.parent import check_settings_go_on, load_parent, parent_digest
from tiger.training.retriever import RetrieverArguments, sources_of
from tiger.training.tokenizer import TokenizerArguments, check_encoder
from tiger.training.two_stage import TwoStageArguments, trees_of
from tiger.utils.errors import DataError
from tiger.utils.paths import nearest_hint

RECIPES = Path(__file__).parent / "recipes"
STEPS = {
    "tokenizer": "fitting the semantic IDs",
    "retriever": "training the T5",
    "two_stage": "training the second stage",
    "evaluate": "measuring on test items",
}
OPTIONAL = ("two_stage", "evaluate")  # a recipe may leave them out
KINDS: dict[str, tuple[type, ...]] = {
    "tokenizer": (TokenizerArguments,),
    "retriever": (RetrieverArguments, TrainingArguments),
    "two_stage": (TwoStageArguments,),
}
# A first look at data: two epochs, few users, one fit of the trees. Chosen on the demo shop, where it reaches 95% of
# the default recipe's recall in a quarter of the time.
FAST: dict[str, dict[str, Any]] = {
    "retriever": {"num_train_epochs": 2, "min_steps": 0, "eval_users": 500},
    "two_stage": {"users": 2000, "num_seeds": 1},
    "evaluate": {"users": 5000},
}


# Work of a training that goes on from a parent's weights, of the recipe's: see ``work_share`` of the retriever. At a
# fifth, loading and a longer history of those who come first still leave it at a quarter of the time.
GOING_ON = 0.2


@dataclass(frozen=True)
class Start:
    """Start of a training and what it holds back: settings that all steps share.

    Args:
        init_from: the recommender that it goes on from; None: none.
        split: ``leave_one_out`` or ``all``.
    """

    init_from: str | None = None
    split: str = LEAVE_ONE_OUT

    def settings(self, step: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a step over the recipe's: with a parent, shorter training; with nothing held out, none of
        validation."""
        found: dict[str, Any] = {"init_from": self.init_from} if self.init_from is not None else {}
        found |= {"split": self.split} if self.split != LEAVE_ONE_OUT else {}
        if step != "retriever":
            return found
        if self.init_from is not None:
            found |= {"work_share": GOING_ON, "min_steps": int(int(recipe.get("min_steps") or 0) * GOING_ON)}
        if self.split == ALL:
            found |= {"eval_strategy": "no", "load_best_model_at_end": False, "patience": None}
        return found


@dataclass(frozen=True)
class Plan:
    """The steps to run for one dataset, and their settings.

    Args:
        recipe: folder of YAML files.
        out: where tokenizer, training, model and results go.
        settings: of every step, the recipe's and the caller's.
        processes: how many train the T5.
    """

    recipe: Path
    out: Path
    settings: dict[str, dict]
    processes: int = 1

    @property
    def steps(self) -> list[str]:
        """Names of the recipe's steps."""
        return [step for step in steps_of(self.recipe) if step != "evaluate" or self.held_out]

    @property
    def held_out(self) -> bool:
        """Whether events are held out that validate and test."""
        return self.settings["retriever"].get("split", LEAVE_ONE_OUT) != ALL

    @property
    def model(self) -> str:
        return str(self.settings["retriever"]["model_dir"])

    @property
    def dataset(self) -> str:
        return str(self.settings["retriever"]["dataset"])

    def arguments(self, step: str) -> tuple:
        """Settings of a step as its dataclasses.

        Raises:
            DataError: a value is of the wrong type, or out of range.
        """
        if step == "evaluate":
            known = known_keys([EvaluationArguments])
            return read_arguments(
                [EvaluationArguments], {key: value for key, value in self.settings[step].items() if key in known}
            )
        try:
            return read_arguments(KINDS[step], self.settings[step])
        except (ValueError, ImportError) as error:  # TrainingArguments': settings that don't go together, a package
            raise DataError(f"settings of {step}: {' '.join(str(error).split())}") from error


def make_plan(
    dataset: str | os.PathLike,
    output_dir: str | os.PathLike,
    recipe: str | os.PathLike = "default",
    *,
    embeddings: str | os.PathLike | None = None,
    processes: int = 1,
    start: Start | None = None,
    overrides: Mapping[str, Mapping] | None = None,
) -> Plan:
    """Collect the settings of all steps; arguments as for :func:`tiger.train`, and ``start`` for two of them.

    Raises:
        DataError: there is no such recipe or step, or a key is unknown.
    """
    folder, out = find_recipe(recipe), Path(output_dir)
    overrides = dict(overrides or {})
    if unknown := [step for step in overrides if step not in STEPS]:
        raise DataError(f"{unknown[0]!r} is not a step: settings are for {', '.join(STEPS)}.")
    data, model = str(dataset), str(out / "model")
    fixed: dict[str, dict] = {
        "tokenizer": {"dataset": data, "output_dir": str(out / "tokenizer")},
        "retriever": {
            "dataset": data,
            "tokenizer": str(out / "tokenizer"),
            "output_dir": str(out / "training"),
            "model_dir": model,
        },
        "two_stage": {"dataset": data, "recommender": model},
    }
    if embeddings is not None:
        for settings in fixed.values():
            settings["embeddings"] = str(embeddings)
    if processes > 1:
        batch = read_yaml(folder / "retriever.yaml").get("per_device_train_batch_size", 8)
        fixed["retriever"]["per_device_train_batch_size"] = batch // processes
    start = start or Start()
    settings = {}
    for step, kinds in KINDS.items():
        file = folder / f"{step}.yaml"
        recipes = [] if step in OPTIONAL and not file.exists() else [file]
        own = merged(kinds, *recipes, fixed[step])
        settings[step] = merged(kinds, own, start.settings(step, own), overrides.get(step, {}))
    file = folder / "evaluate.yaml"
    measured: list[Any] = [*([file] if file.exists() else []), overrides.get("evaluate", {})]
    settings["evaluate"] = merged([EvaluationArguments], *measured, also=SCRIPT_KEYS)
    return Plan(folder, out, settings, processes)


def steps_of(recipe: Path) -> list[str]:
    """Steps of a recipe, a folder: without those of :data:`OPTIONAL` that it has no file for."""
    return [step for step in STEPS if step not in OPTIONAL or (recipe / f"{step}.yaml").exists()]


def find_recipe(recipe: str | os.PathLike) -> Path:
    """Find a recipe's folder: by the name of one that comes with the library, or by its path.

    Raises:
        DataError: there is none, or a file's name in it is misspelled.
    """
    names = sorted(folder.name for folder in RECIPES.iterdir() if folder.is_dir())
    if str(recipe) in names:
        return RECIPES / str(recipe)
    folder = Path(recipe)
    if not folder.is_dir():
        close = difflib.get_close_matches(str(recipe), names, n=1)
        hint = f" (is {close[0]} meant?)" if close else nearest_hint(folder)
        raise DataError(f"{recipe} is not a recipe{hint}: give a folder of YAML files, or one of {', '.join(names)}.")
    missing = [step for step in STEPS if not (folder / f"{step}.yaml").is_file()]
    if len(missing) == len(STEPS):
        raise DataError(f"{recipe} is not a recipe: it holds none of {', '.join(f'{step}.yaml' for step in STEPS)}.")
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        # A misspelled file of an optional step would be passed over without a word.
        meant = difflib.get_close_matches(file.name, [f"{step}.yaml" for step in missing], n=1, cutoff=0.75)
        if file.stem not in STEPS and meant or file.suffix == ".yml" and file.stem in missing:
            raise DataError(f"{file} is no step's file: call it {(meant or [f'{file.stem}.yaml'])[0]}.")
    return folder


def read_overrides(texts: Iterable[str]) -> dict[str, dict]:
    """Parse ``step.key=value`` from the command line into settings per step.

    Raises:
        DataError: one of them reads otherwise.
    """
    found: dict[str, dict] = {}
    for text in texts:
        place, _, value = text.partition("=")
        step, _, key = place.partition(".")
        if step not in STEPS or not key or not value:
            raise DataError(f"--set {text}: give step.key=value, the step one of {', '.join(STEPS)}.")
        found.setdefault(step, {})[key] = value
    return found


def over(settings: Mapping[str, Mapping], overrides: Mapping[str, Mapping]) -> dict[str, dict]:
    """Settings per step, with other ones over them."""
    return {step: dict(settings.get(step, {})) | dict(overrides.get(step, {})) for step in {**settings, **overrides}}


def check_settings(plan: Plan, steps: Sequence[str]) -> dict[str, tuple]:
    """Check the settings of all steps, so that the last one isn't found wrong after hours; return them by step.

    Raises:
        DataError: naming the step and the setting.
    """
    for step in steps:
        if step not in STEPS:
            raise DataError(f"{step!r} is not a step: there are {', '.join(STEPS)}.")
    if "evaluate" in steps and not plan.held_out:
        raise DataError("split all leaves nothing to measure on: leave out the step evaluate.")
    found = {step: plan.arguments(step) for step in steps}
    if "two_stage" in steps and found["two_stage"][0].split == ALL:
        trees_of(found["two_stage"][0])
    if init_from := plan.settings["retriever"].get("init_from"):
        if "retriever" in found:
            check_settings_go_on(load_parent(init_from), found["retriever"][0])
        else:
            parent_digest(init_from)  # a step that reads it all comes later; that there is one is checked now
    for step, parts in found.items():
        for name, (least, most) in _RANGES[step].items():
            value = getattr(next(part for part in parts if hasattr(part, name)), name)
            if value is not None:
                check_value(f"{step}.{name}", value, float if isinstance(value, float) else int, least, most)
        for name, allowed in _CHOICES.get(step, {}).items():
            value, default = getattr(parts[0], name), getattr(type(parts[0]), name)
            if value != default and value not in allowed:
                raise DataError(f"{step}.{name} must be {' or '.join(allowed)}, got {value!r}.")
    if "tokenizer" in found:
        check_encoder(found["tokenizer"][0])
        quantizer_class(found["tokenizer"][0].quantizer)
    if "retriever" in found:
        args, training = found["retriever"]
        sources_of(args)
        check_evaluations(args, training)
        if args.tokens != "auto" and args.output_softmax not in (None, "auto"):
            softmax_of_tokens(args.tokens, args.output_softmax)
    for step in found:
        file = plan.settings[step].get("embeddings")
        if file is not None and not Path(file).is_file():
            raise DataError(f"{step}.embeddings: {file} is not a file{nearest_hint(file)}.")
    return found


_RANGES: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "tokenizer": {
        "embedding_dim": (1, None),
        "num_codebooks": (0, 16),
        "codebook_size": (1, 1 << 20),
        "cooccurrence_weight": (0, None),
        "seed": (0, 2**32 - 1),
    },
    "retriever": {
        **{name: (1, None) for name in ("max_history", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")},
        "num_decoder_layers": (1, None),
        "hashed_rows": (1, MAX_HASHED_ROWS),
        "recent_items": (0, MAX_RECENT_ITEMS),
        "dropout_rate": (0, 1),
        "start_share": (0, 1),
        "train_share": (1e-9, 1),
        "user_tokens": (0, None),
        "num_train_epochs": (0.001, None),
        "min_steps": (0, None),
        "eval_users": (1, None),
        "eval_beams": (10, MAX_BEAMS),
        "patience": (1, None),
        "learning_rate": (0, None),
        "embedding_learning_rate": (0, None),
        "muon_learning_rate": (0, None),
        "per_device_train_batch_size": (1, None),
        "per_device_eval_batch_size": (1, None),
    },
    "two_stage": {
        "num_beams": (1, MAX_BEAMS),
        "num_proposed": (1, None),
        "users": (2, None),
        "max_trees": (1, None),
        "learning_rate": (0, None),
        "num_leaves": (2, 131_072),  # LightGBM's own limit
        "num_seeds": (1, None),
        "time_dropout": (0, 1),
        "seed": (0, 2**31 - 1),
    },
    "evaluate": {"num_beams": (10, MAX_BEAMS), "users": (1, None), "examples": (0, None)},
}
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "tokenizer": {"split": SPLITS},
    "two_stage": {"split": SPLITS, "keep": KEPT},
    "retriever": {
        "split": SPLITS,
        "history_attention": ("causal", "full"),
        "tokens": (*VOCABULARIES, "auto"),
        "output_softmax": (*OUTPUT_SOFTMAX, "auto"),
    },
}
