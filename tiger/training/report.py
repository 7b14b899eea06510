"""Report of a run: its data, codes, training, results and a few users, as ``report.md`` and ``report.html``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiger.data.dataset import RecommendationData
from tiger.data.repeats import repeat_share
from tiger.data.sequences import SECONDS_PER_DAY
from tiger.data.splits import LEAVE_ONE_OUT
from tiger.quantizers.report import REPORT
from tiger.recommender.card_lineage import logs_of
from tiger.recommender.manifest import read_manifest
from tiger.training.decisions import Decision, decisions_of, history_decision
from tiger.training.tokenizer import CODE_USAGE
from tiger.utils.json_files import read_json

CURVE = "training_curve.png"
HISTORY = "trainer_state.json"  # Trainer's own name


@dataclass(frozen=True)
class Section:
    """A part of a report; what is empty is left out.

    Args:
        title: its heading.
        facts: names and values.
        notes: sentences.
        heads: of the table's columns.
        rows: the table's; the first column is a name.
        decisions: see :mod:`tiger.training.decisions`.
        picture: path of a PNG, relative to the run.
        stories: users, see :func:`tiger.training.stories.stories_of`.
        commands: names and command lines.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    picture: str = ""
    stories: tuple[Mapping[str, Any], ...] = ()
    decisions: tuple[Decision, ...] = ()
    commands: tuple[tuple[str, str], ...] = field(default=())


def sections_of(out: str | os.PathLike, model: str, dataset: str, results: Mapping[str, Any]) -> list[Section]:
    """Collect what a run says of itself.

    Args:
        out: the run's folder.
        model: the recommender's folder.
        dataset: what it was trained on.
        results: of :func:`tiger.training.evaluation.measure`.
    """
    out, data = Path(out), RecommendationData.load(dataset)
    training = read_manifest(model)["training"]
    # Where nothing was held out there are none.
    results = {"exclude_history": training.get("exclude_history", True), "models": {}, "examples": []} | dict(results)
    codes = read_json(out / "tokenizer" / REPORT) if (out / "tokenizer" / REPORT).exists() else {}
    curve = history_of(out / "training" / HISTORY)
    sections = [data_section(data, training, results)]
    sections.append(decisions_section(data, training, codes, results))
    if codes:
        sections.append(codes_section(codes, (out / "tokenizer" / CODE_USAGE).exists()))
    if training.get("parent"):
        sections.append(parent_section(training, codes))
    sections.append(training_section(training, curve))
    if results["models"]:
        sections.append(results_section(results))
    if results["examples"]:
        sections.append(
            Section("Five users" if len(results["examples"]) == 5 else "Users", stories=results["examples"])
        )
    return [*sections, next_section(out, model, training, codes, curve, results)]


def history_of(file: Path) -> list[dict]:
    """Trainer's log of a training, empty where it was not kept."""
    return read_json(file).get("log_history", []) if file.exists() else []


def data_section(data: RecommendationData, training: Mapping[str, Any], results: Mapping[str, Any]) -> Section:
    """The data in numbers."""
    events, split = data.sequences, data.split(training.get("split", LEAVE_ONE_OUT), training.get("shuffle_ties"))
    days = events.timestamps // SECONDS_PER_DAY
    counted = np.bincount(split.train.items, minlength=data.num_items)
    share = repeat_share(*split.next_items)
    facts = [
        ("users", f"{len(events):,}" + (f", {split.num_left_out:,} left out" if split.num_left_out else "")),
        ("items", f"{data.num_items:,}"),
        ("events", f"{len(events.items):,} on {len(np.unique(days)):,} days"),
        ("events per user", f"{np.median(events.lengths):.0f} (median), {events.lengths.max():,} at most"),
        ("repeats", f"{share:.1%} of the next items are in the user's history"),
        ("cold items", f"{(counted == 0).sum():,} without a training event ({(counted == 0).mean():.1%})"),
        ("ties", f"{tie_share(events.users, days):.1%} of the events share their day with another of the user"),
    ]
    _, done, reason, _ = history_decision(data, training, results)
    notes = [f"Items of the history are {done}. {reason}"]
    if not split.held_out:
        notes.append("All events were trained on (split all): nothing was held out, so there are no test results.")
    removed, kept = (results.get(f"hybrid, history {way}") for way in ("removed", "kept"))
    if removed and kept:
        notes.append(
            f"The hybrid baseline's R@10 is {removed['recall@10']:.4f} with the history removed and "
            f"{kept['recall@10']:.4f} with it kept."
        )
    return Section("Data", tuple(facts), tuple(notes))


def decisions_section(
    data: RecommendationData, training: Mapping[str, Any], codes: Mapping[str, Any], results: Mapping[str, Any]
) -> Section:
    """The decisions that the training made by itself."""
    note = "What was decided by itself, and why. To decide otherwise, give settings of the last column to tiger train "
    note += "as --set, with another --out."
    return Section("Decisions", notes=(note,), decisions=tuple(decisions_of(data, training, codes, results)))


def tie_share(users: np.ndarray, days: np.ndarray) -> float:
    """Share of events, users int [n] and days int [n], that share user and day with another event."""
    _, where, counts = np.unique(np.stack([users, days]), axis=1, return_inverse=True, return_counts=True)
    return float((counts[where.reshape(-1)] > 1).mean())


def codes_section(codes: Mapping[str, Any], drawn: bool) -> Section:
    """Use of the codes."""
    levels = zip(codes["codes_used"], codes["codes_used_share"], codes["perplexity"])
    facts = [
        (f"level {level}", f"{used} codes in use ({share:.0%}), as evenly as {even:.0f} (perplexity)")
        for level, (used, share, even) in enumerate(levels, 1)
    ]
    facts += [
        ("shared codes", f"{codes['collision_share']:.1%} of the items share all codes with another"),
        ("encoder", str(codes.get("encoder"))),
    ]
    return Section("Semantic IDs", tuple(facts), picture=f"tokenizer/{CODE_USAGE}" if drawn else "")


def parent_section(training: Mapping[str, Any], codes: Mapping[str, Any]) -> Section:
    """The parent that training went on from, and whether its quantizer still fits the items."""
    parent, drift = training["parent"], codes.get("drift")
    facts = [
        ("parent", f"{parent['model']}, fingerprint {parent['fingerprint'][:16]}"),
        ("trainings since the first", str(parent["generation"])),
        ("new items", f"{parent['new_items']:,}, their IDs by the parent's quantizer"),
    ]
    facts += [(f"digest of the {whose} log", digest[:16]) for whose, digest in logs_of(training).items()]
    if not drift:
        return Section("Parent", tuple(facts), ("No item has come since the quantizer was fitted: no drift.",))
    shared = [drift[part]["collision_share"] for part in ("new", "old")]
    facts += [
        ("items since the quantizer was fitted", f"{drift['new']['num_items']:,}"),
        ("badly fitted", f"{drift['badly_fitted']:.1%} of these (5% to 14% is no drift)"),
        ("share all codes", f"{shared[0]:.1%} of these, {shared[1]:.1%} of those before"),
    ]
    advice = "Drift: the quantizer still fits; go on from this model."
    if drift["refit"]:
        advice = f"Drift: refit the quantizer, by training without --init_from. {' '.join(drift['reasons'])}"
    return Section("Parent", tuple(facts), (advice,))


def training_section(training: Mapping[str, Any], curve: list[dict]) -> Section:
    """Training of the T5 in numbers, and its curve."""
    named = {"epochs": "{}", "steps": "{:,}", "seconds": "{:,}", "parameters": "{:,}"}
    facts = [(name, form.format(training[name])) for name, form in named.items() if training.get(name) is not None]
    facts += [(name, str(value)) for name, value in training.items() if name.startswith("validation ") and value]
    if memory := training.get("memory"):
        facts.append(("weight of the T5 beside its memory", f"{memory['t5_weight']:g}"))
        found = ", ".join(f"{ndcg:.4f} at {weight}" for weight, ndcg in memory["validation ndcg@10"].items())
        facts.append(("validation ndcg@10 by that weight", found))
    return Section("Training of the T5", tuple(facts), picture=CURVE if curve else "")


def results_section(results: Mapping[str, Any]) -> Section:
    """The table against the baselines."""
    metrics = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    rows = [(name, *(f"{one[metric]:.4f}" for metric in metrics)) for name, one in results["models"].items()]
    setting = "left out" if results["exclude_history"] else "kept"
    note = f"The next item of {results['users']:,} test users among all items; items of the history are {setting}."
    if "errors" in results:  # users were drawn
        note += f" Standard errors of N@10 are up to {max(one['ndcg@10'] for one in results['errors'].values()):.4f}."
    notes = [note]
    for one in results.get("comparisons", ()):
        side = "above" if one["difference"] >= 0 else "below"
        between = f"95% of other users would give {one['low']:+.4f} to {one['high']:+.4f}"
        gap = f"{abs(one['difference']):.4f}"
        notes.append(f"N@10 of {one['model']} is {gap} {side} that of {one['baseline']} ({between}).")
    return Section("Results", notes=tuple(notes), heads=("model", "R@5", "N@5", "R@10", "N@10"), rows=tuple(rows))


def next_section(
    out: Path,
    model: str,
    training: Mapping[str, Any],
    codes: Mapping[str, Any],
    curve: list[dict],
    results: Mapping[str, Any],
) -> Section:
    """Advice by what the numbers show, and commands to go on with."""
    notes, models = [], results["models"]
    last = list(models)[-1] if models else ""
    for one in results.get("comparisons", ()):
        if one["high"] < 0:
            notes.append(
                f"{one['baseline']} is better than {one['model']} by more than chance: train longer (without --fast, "
                "or with a higher retriever.num_train_epochs), or give more data."
            )
    found = [row["eval_ndcg@10"] for row in curve if "eval_ndcg@10" in row]
    if len(found) > 1 and found[-1] == max(found):
        notes.append("Validation was still improving at the end: more epochs (retriever.num_train_epochs) may help.")
    if codes.get("collision_share", 0) > 0.5:
        notes.append("Most items share all their codes: a level more (tokenizer.num_codebooks) tells them apart.")
    if last == "tiger" and "second_stage" not in training:
        notes.append("There is no second stage: a recipe with two_stage.yaml, such as default, trains one.")
    if not notes:
        notes.append("Nothing in these numbers asks for a change.")
    keep = "" if results["exclude_history"] else " --keep_history"
    commands = [
        ("try it in a browser", f"tiger app {model}"),
        ("ask it", f"tiger recommend {model} --history ID ID{keep}"),
        ("answer over HTTP", f"tiger serve {model}"),
        ("what is in it", f"tiger info {model}"),
        ("new items, without training", f"tiger items add {model} new.csv"),
    ]
    return Section("What to do next", notes=tuple(notes), commands=tuple(commands))
