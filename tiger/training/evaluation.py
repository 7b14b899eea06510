"""Test results of a finished run: the baselines, the T5 and the second stage on the same users, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiger.data.dataset import RecommendationData
from tiger.data.repeats import excludes_history, repeat_share
from tiger.data.sequences import Sequences
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.baselines import fitted_baselines, recommend_by_score
from tiger.evaluation.evaluator import NextItemEvaluation, Recommend, evaluate
from tiger.evaluation.significance import bootstrap_interval
from tiger.evaluation.training_split import COUNTED, SUFFIX, counts_validation, split_of_model, suffix_of
from tiger.recommender.answers import ranker_order
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.retriever.memory import ItemMemory
from tiger.training.stories import spread, stories_of
from tiger.utils import devices

# The largest of the published sets has 7e8; fifty million scores take a CPU about a second.
MOST_SCORES = 4_000_000_000
SAMPLED_USERS = 20_000
ALONE = "tiger"  # what the T5's own order is called in tables
# Keys of an evaluate.yaml that only recipes/evaluate.py reads.
SCRIPT_KEYS = (
    *("allow_other_log", "baselines", "command", "dataset", "embeddings", "models", "name", "note", "only", "part"),
    *("ranks_dir", "results_dir", "tie_seeds"),
)


@dataclass
class EvaluationArguments:
    """Settings of the last step; of a recipe's ``evaluate.yaml``, the rest is for ``recipes/evaluate.py``."""

    num_beams: int = field(default=50, metadata={"help": "beams of the T5, at least 10"})
    bf16: bool = field(default=True, metadata={"help": "decode in bfloat16"})
    users: int | None = field(
        default=None,
        metadata={"help": "number of test users, drawn at random; default: all, 20,000 of a large log and catalog"},
    )
    examples: int = field(default=5, metadata={"help": "users whose history and recommendations are shown by title"})
    no_timestamps: bool = field(
        default=False, metadata={"help": "measure the second stage without the times of events as well"}
    )
    no_memory: bool = field(default=False, metadata={"help": "measure the T5 without its memory as well"})
    exclude_history: bool | None = field(
        default=None,
        metadata={"help": "leave out items of the history; default: as the T5 was trained"},
    )


def measure(model: str, dataset: str, args: EvaluationArguments) -> dict[str, Any]:
    """Measure a saved recommender and the baselines on the last items of its dataset's users.

    Returns:
        ``recall@5``, ``ndcg@5``, ``recall@10`` and ``ndcg@10`` of the whole recommender; ``users``, their number;
        ``models``, the same four by model, the weakest kind first; ``errors``, their standard errors, where users
        were drawn; ``exclude_history``; ``counts_validation``, where it does; ``repeats``, the share of
        targets that stand in their history; ``hybrid, history removed`` and ``hybrid, history kept``, where some do;
        ``comparisons``, see :func:`comparisons_of`; ``examples``, see :func:`tiger.training.stories.stories_of`.

    Raises:
        DataError: the recommender and the dataset don't belong together.
    """
    tiger = TigerRecommender.from_pretrained(model, devices.fastest())
    data = RecommendationData.load(dataset)
    rows = tiger.tokenizer.rows(data.item_ids, missing=-1)
    split, _ = split_of_model(data, rows, tiger.training, dataset)
    exclude = excludes_history(split, args.exclude_history, tiger.training)
    everyone = EvaluationExamples(*split.part("test"))
    users = everyone.drawn(args.users or users_to_ask(len(everyone), data.num_items))
    asked = everyone.select(users)
    found: dict[str, NextItemEvaluation] = {}
    texts = _texts_of_rows(data, rows, len(tiger.tokenizer))
    baselines = baselines_of(split.train, texts)
    if counts_validation(tiger.training):  # then a baseline that counts them too is what it is to be compared with
        strongest, recommend = list(baselines_of(split.test_histories, texts).items())[-1]
        baselines[strongest + SUFFIX] = recommend
    for name, recommend in baselines.items():
        found[name] = evaluate(recommend, asked.histories, asked.targets, exclude_history=exclude)
    answers, scores = np.empty((0, 0)), np.empty((0, 0))
    for name, answers, scores in stages_of(tiger, asked.histories, args, exclude):
        found[name] = NextItemEvaluation.of(answers, asked.targets)
    metrics = {name: _rounded(one.metrics) for name, one in found.items()}
    sampled = (
        {"errors": {name: _rounded(one.errors) for name, one in found.items()}} if len(asked) < len(everyone) else {}
    )
    repeats = repeat_share(asked.histories, asked.targets)
    both = {}
    if repeats and "hybrid" in baselines:
        for exclusion, setting in ((True, "hybrid, history removed"), (False, "hybrid, history kept")):
            kept = found["hybrid"]
            if exclusion != exclude:
                kept = evaluate(baselines["hybrid"], asked.histories, asked.targets, exclude_history=exclusion)
            both[setting] = _rounded(kept.metrics)
    names = data.user_ids.take(split.users[users]).to_pylist()
    return {
        "users": len(asked),
        **list(metrics.values())[-1],
        "models": metrics,
        **sampled,
        "exclude_history": exclude,
        **({COUNTED: True} if counts_validation(tiger.training) else {}),
        "repeats": round(repeats, 5),
        **both,
        "comparisons": comparisons_of(found, name_alone(tiger), suffix_of(tiger.training)),
        "examples": stories_of(tiger, names, asked, answers, scores, spread(len(asked), args.examples)),
    }


def comparisons_of(
    found: Mapping[str, NextItemEvaluation], alone: str = ALONE, suffix: str = ""
) -> list[dict[str, Any]]:
    """Compare what the recipe promises: the last stage is not below the hybrid, and the T5 not below popularity.

    Without texts there is no hybrid: transition takes its place.

    Args:
        found: all models by name, the last stage last.
        alone: the name of the T5's own order.
        suffix: of the hybrid's or transition's name, which counts what the last stage counts.

    Returns:
        ``model``, ``baseline``, and of NDCG@10 the ``difference`` with its 95% interval over users, ``low`` and
        ``high``.
    """
    last, hybrid = list(found)[-1], f"hybrid{suffix}"
    pairs = ((alone, "popularity"), (last, hybrid if hybrid in found else f"transition{suffix}"))
    compared = []
    for model, baseline in pairs:
        if not len(found[model].ranks):
            continue
        gain = found[model].per_user["ndcg@10"] - found[baseline].per_user["ndcg@10"]
        low, high = bootstrap_interval(gain, 1000)
        values = {"difference": float(gain.mean()), "low": low, "high": high}
        compared.append({"model": model, "baseline": baseline} | _rounded(values))
    return compared


def users_to_ask(num_users: int, num_items: int) -> int:
    """Number of test users, where none is given: all, or a sample where the baselines, which score every item for
    every user, would take hours. Its NDCG has a standard error of about .0015."""
    return num_users if num_users * num_items <= MOST_SCORES else min(num_users, SAMPLED_USERS)


def stages_of(
    tiger: TigerRecommender,
    histories: Sequences,
    args: EvaluationArguments,
    exclude_history: bool,
    part: str = "test",
    alone: str = ALONE,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Names, answers and scores of the T5 alone and, where a ranker has not learned from this part, of both stages.

    Args:
        tiger: the recommender.
        histories: n sequences of its item rows.
        args: number of beams and precision.
        exclude_history: leave out items of the history.
        part: of the split, that the histories are of.
        alone: name of the T5's own order.

    Yields:
        Answers [n, number of beams, at least 10] of the T5 with its memory, if any, then [n, 10] of both stages;
        with ``no_timestamps`` those that know no times of events come before. Before all come those of the memory,
        [n, 10], where there is one, and with ``no_memory`` those of the T5 without it. Names of what counts validation
        events end in ``-with-validation``.
    """
    search: dict[str, Any] = {
        "num_beams": args.num_beams,
        "exclude_history": exclude_history,
        "progress": True,
        "rank": False,
        "bf16": args.bf16,
    }
    suffix = suffix_of(tiger.training)
    count = max(10, args.num_beams)
    if tiger.memory is not None:
        yield f"memory{suffix}", *memory_alone(tiger.memory, histories, exclude_history)
        if args.no_memory:
            yield f"{alone}-no-memory", *tiger.recommend_rows(histories, k=count, memory=False, **search)
    beams, scores = tiger.recommend_rows(histories, k=count, **search)
    yield name_alone(tiger, alone), beams, scores
    ranker = tiger.ranker
    if ranker is not None and ranker.learned_from != part:
        # A ranker that proposes items of its own is a system of its own, else it is the T5 put in order.
        name = (ranker.kind if ranker.proposes_items else f"{alone}-ranked") + suffix
        if args.no_timestamps and ranker.reads_times:
            ranked, _, values = ranker_order(
                ranker, tiger.memory, histories.without_timestamps(), (beams, scores), 10, exclude_history
            )
            yield f"{name}-no-timestamps", ranked, values
        ranked, _, values = ranker_order(ranker, tiger.memory, histories, (beams, scores), 10, exclude_history)
        yield name, ranked, values


def name_alone(tiger: TigerRecommender, alone: str = ALONE) -> str:
    """The name of the T5's own order, with its memory where there is one, among :func:`stages_of`."""
    return alone if tiger.memory is None else alone + suffix_of(tiger.training)


def memory_alone(memory: ItemMemory, histories: Sequences, exclude_history: bool) -> tuple[np.ndarray, np.ndarray]:
    """The ten items of the largest mass, int32 [n, 10], -1 where there are fewer, and their masses."""
    order = np.random.default_rng(0).permutation(len(memory))  # no order of rows decides between equal masses
    return recommend_by_score(lambda some: memory.mass(some)[:, order], order, histories, 10, exclude_history)


def baselines_of(events: Sequences, texts: list[str]) -> dict[str, Recommend]:
    """The training-free methods by name, the strongest last; without texts, those that read none."""
    return {name: baseline.recommend for name, baseline in fitted_baselines(events, texts).items()}


def table_of(models: Mapping[str, Mapping[str, float]]) -> str:
    """A table of recall and NDCG at 10, one line per model."""
    width = max(len(name) for name in models) + 2
    lines = [" " * width + "   R@10    N@10"]
    lines += [f"{name:{width}}{one['recall@10']:7.4f} {one['ndcg@10']:7.4f}" for name, one in models.items()]
    return "\n".join(lines)


def _texts_of_rows(data: RecommendationData, rows: np.ndarray, count: int) -> list[str]:
    """Texts in the model's rows, which may be more than the dataset's: items may have been added since."""
    texts = [""] * count
    for row, text in zip(rows, item_texts(data.items, required=False)):
        texts[row] = text
    return texts


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in metrics.items()}
