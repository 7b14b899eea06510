"""Decisions that a training made by itself, each with its reason and the setting that decides otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tiger.data.dataset import RecommendationData
from tiger.data.repeats import KEEP_FROM, repeat_share
from tiger.data.splits import ALL, LEAVE_ONE_OUT
from tiger.evaluation.training_split import SUFFIX, counts_validation
from tiger.rankers.two_stage.choice import BY_T5
from tiger.retriever.memory import T5_WEIGHT
from tiger.training.catalog_size import MAX_CODES, MOST_PREFIXES, MOST_SUMMED, TUPLES, TWO_LEVELS
from tiger.training.two_stage import order_in_words

HEADS = ("decision", "choice", "why", "to decide otherwise")
# A decision's name, the choice, a sentence that says why, and settings for ``tiger train --set``.
Decision = tuple[str, str, str, str]


def decisions_of(
    data: RecommendationData, training: Mapping[str, Any], codes: Mapping[str, Any], results: Mapping[str, Any]
) -> list[Decision]:
    """Collect the decisions of a run.

    Args:
        data: what it was trained on.
        training: what is recorded with the recommender.
        codes: the tokenizer's report; empty: there is none.
        results: of :func:`tiger.training.evaluation.measure`, or at least ``exclude_history`` and ``models``.
    """
    asked = training.get("arguments", {})
    found = [*_of_codes(codes, data.num_items)] if codes else []
    found += [_of_tokens(str(asked["tokens"]), data.num_items)] if asked.get("tokens") else []
    if asked.get("tokens") == "prefixes" and asked.get("output_softmax"):
        found += [_of_softmax(asked["output_softmax"], data.num_items, "parent" in training)]
    found += [_of_epochs(training, asked)] if training.get("steps") else []
    found += [history_decision(data, training, results), _of_memory(training), _of_second_stage(training)]
    found += [_of_validation(training)] if "second_stage" in training else []
    return [*found, *_of_users(results)]


def _of_codes(codes: Mapping[str, Any], num_items: int) -> Iterator[Decision]:
    levels = len(codes["codes_used"])
    used = " and ".join(f"{count:,}" for count in codes["codes_used"])
    why = f"Two levels of codes hold up to {TWO_LEVELS:,} items; the catalog has {num_items:,}."
    if num_items > TWO_LEVELS:
        why = f"With {num_items:,} items, there are as many levels as give {TUPLES} tuples of codes for each."
    why += f" A level has {MAX_CODES} codes, or fewer where that is less than four items a code."
    change = "tokenizer.num_codebooks=3 tokenizer.codebook_size=256"
    yield "semantic IDs", f"{levels} levels, {used} codes in use", why, change


def _of_tokens(tokens: str, num_items: int) -> Decision:
    """Prefixes or codes, as the recipe or the size of the catalog says."""
    setting, other = "retriever.tokens", "codes" if tokens == "prefixes" else "prefixes"
    why = _by_size(setting, num_items, MOST_PREFIXES, for_few=tokens == "prefixes")
    one = ": one token for an item of the history" if tokens == "prefixes" else ": one token for each level"
    return "tokens of the T5", tokens + one, why, f"{setting}={other}"


def _of_softmax(softmax: str, num_items: int, has_parent: bool) -> Decision:
    """A softmax over all items or over children, as the recipe or the size of the catalog says."""
    name, setting, sums = "softmax of the T5", "retriever.output_softmax", softmax == "items"
    if has_parent:
        return name, softmax, "It is that of the parent, whose weights this training started from.", "no --init_from"
    choice = "items: the probability of a first token is the sum over its items" if sums else softmax
    why = _by_size(setting, num_items, MOST_SUMMED, for_few=sums)
    return name, choice, why, f"{setting}={'children' if sums else 'items'}"


def _by_size(setting: str, num_items: int, most: int, for_few: bool) -> str:
    """Why a choice was made that is ``for_few`` items, up to ``most``, or for more: their number, or the setting."""
    few = num_items <= most
    if few != for_few:
        return f"A setting ({setting}) says so."
    return f"The catalog has {num_items:,} items, {'no more' if few else 'more'} than {most:,}."


def _of_epochs(training: Mapping[str, Any], asked: Mapping[str, Any]) -> Decision:
    epochs, steps, best = training.get("epochs", 0), training["steps"], training.get("best_step")
    why = f"Epochs asked for: {asked['num_train_epochs']:g}" if asked.get("num_train_epochs") else ""
    if least := asked.get("min_steps"):
        why = f"The recipe trains for {least:,} steps or more, which a small log takes many epochs for"
    why += f"; validation was best at step {best:,}, whose weights are kept." if best else "."
    change = "retriever.num_train_epochs=5 retriever.min_steps=0"
    return "epochs", f"{epochs:g}, which are {steps:,} steps", why.lstrip("; "), change


def history_decision(data: RecommendationData, training: Mapping[str, Any], results: Mapping[str, Any]) -> Decision:
    """Whether items of the history are left out of answers, and why."""
    share = repeat_share(*data.split(training.get("split", LEAVE_ONE_OUT), training.get("shuffle_ties")).next_items)
    excluded = results["exclude_history"]
    why = f"{share:.1%} of the next items stand in their history, {'less' if share < KEEP_FROM else 'not less'} than "
    why += f"{KEEP_FROM:.0%}. Baselines, T5, memory, second stage and test do the same."
    if excluded != (share < KEEP_FROM):
        why = f"A setting (exclude_history), or the model gone on from, says so; {share:.1%} of the next items stand "
        why += "in their history."
    done = "left out of the answers" if excluded else "kept in the answers"
    return "items of the history", done, why, f"retriever.exclude_history={str(not excluded).lower()}"


def _of_memory(training: Mapping[str, Any]) -> Decision:
    name, change = "memory", "retriever.memory=false"
    if not training.get("arguments", {}).get("memory"):
        return name, "none", "The recipe asks for none: the T5 answers alone.", "retriever.memory=true"
    known = training.get("memory")
    if not known:
        return name, f"the T5 counts {T5_WEIGHT:g} times", "Nothing was held out to choose another weight by.", change
    weight, users = known["t5_weight"], known.get("users", 0)
    choice = f"the T5 counts {weight:g} times beside the counts of the log"
    if "with more popularity" in known:
        choice += ", and popular items count more"
        why = f"On {users:,} validation users popular items had N@10 {known['popular items']:.4f}, "
        why += f"more than the mixture: now it has {known['with more popularity']:.4f}."
        return name, choice, why, change
    why = f"{weight:g} is better than the default {T5_WEIGHT:g} by two standard errors on {users:,} validation users."
    if weight == T5_WEIGHT:
        why = f"No other weight is better than this one by two standard errors on {users:,} validation users."
    if "popular items" in known:
        found = known["validation ndcg@10"].get(f"{weight:g}", 0)
        why += f" N@10 there is {found:.4f}, of popular items {known['popular items']:.4f}."
    return name, choice, why, change


def _of_second_stage(training: Mapping[str, Any]) -> Decision:
    known = training.get("second_stage")
    if known is None:
        return "second stage", "none", "The recipe has no two_stage.yaml, or the step was not run.", "--recipe default"
    choice = {"trees": "trees", "hybrid": "the hybrid's order, no trees", "t5": "none"}[known["order"]]
    return "second stage", choice, order_in_words(known), "two_stage.keep=trees"


def _of_validation(training: Mapping[str, Any]) -> Decision:
    """Whether counts hold validation events, which a step of the second stage decides."""
    name, change = "validation events", "two_stage.count_validation=false"
    if counts_validation(training):
        why = "A recommender in use counts all events so far, and so does the one that the test asks; all weights and "
        why += "trees were fitted with counts of training events alone. "
        why += f"Names of results end in {SUFFIX}, that of their baseline too."
        return name, "counted, once all was fitted", why, change
    if training.get("split", LEAVE_ONE_OUT) == ALL:
        return name, "counted, as all events", "Nothing was held out (split all).", "--split leave_one_out"
    if training["second_stage"]["order"] == BY_T5 and "memory" not in training:
        return name, "not counted", "The T5 answers alone, without a memory: nothing in it counts.", change
    why = "A setting (two_stage.count_validation) says so: counts hold training events alone."
    return name, "not counted", why, "two_stage.count_validation=true"


def _of_users(results: Mapping[str, Any]) -> Iterator[Decision]:
    if not results["models"]:
        return
    why = "All users of the test were asked."
    if "errors" in results:  # users were drawn
        why = "Users were drawn: baselines score every item for every user, which takes hours on all of a large log."
    yield "users of the test", f"{results['users']:,}", why, "evaluate.users=1000"
