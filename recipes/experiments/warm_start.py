"""Going on from yesterday's model against training from scratch, by time: accuracy, cost, and what a refit changes.

    python recipes/experiments/warm_start.py --dataset datasets/beauty --recipe recipes/beauty --embeddings FILE

Protocol. Cuts lie ``days`` apart, the last one ``days`` before the log's end. At the first cut a model is trained on
all events before it (split all, T5 alone); at each later cut one goes on from the model of the cut before
(``init_from``), and another is trained from scratch. The catalog of a cut is the items with an event before it. Asked
is, at each later cut, for the first event of each user within the next ``days`` days, after all of the user's events
before the cut; the history is removed from the answers, and users whose next item is not in the catalog are left out
and counted. Users with an even hash validate (settings of going on are chosen on them), the others test. ``stale`` is
the first cut's model, to which new items were added without training.

CPU seconds are the process's, of tokenizer and T5, evaluation of this script not among them. A run whose seconds are
not recorded is started again; others are left alone, like metrics that are there, so that a killed experiment goes on.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load_file, save

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.data.users import user_numbers
from tiger.embeddings.base import load_embeddings
from tiger.evaluation.evaluator import evaluate
from tiger.evaluation.results import write_experiment
from tiger.evaluation.significance import bootstrap_interval
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.drift import drift_report, ids_changed
from tiger.training.arguments import parse_arguments
from tiger.training.pipeline import train, write_dataset
from tiger.training.plan import over, read_overrides
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

COST = "cost.json"


@dataclass
class WarmStartArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    embeddings: str = field(metadata={"help": "content vectors, in item order"})
    recipe: str = field(default="default", metadata={"help": "recipe, as for tiger train"})
    out: str = field(default="runs/warm_start", metadata={"help": "where data of the cuts and models go"})
    results_dir: str = field(default="recipes/results/warm_start", metadata={"help": "where the JSON file goes"})
    days: int = field(default=30, metadata={"help": "between cuts"})
    steps: int = field(default=3, metadata={"help": "cuts at which training goes on"})
    num_beams: int = 20
    part: str = field(default="test", metadata={"help": "users who are asked: valid or test"})
    variant: str = field(default="warm", metadata={"help": "name of the runs that go on"})
    settings: list[str] = field(default_factory=list, metadata={"help": "STEP.KEY=VALUE of all runs"})
    going_on: list[str] = field(default_factory=list, metadata={"help": "STEP.KEY=VALUE of runs that go on"})
    scratch: list[int] | None = field(
        default=None, metadata={"help": "cuts at which a model is trained from scratch; default: all"}
    )
    seed: int = 0


@dataclass(frozen=True)
class Cut:
    """A moment of the log: data before it, and who is asked after it.

    Args:
        day: the first one after the cut, days since 1970.
        folder: a dataset directory of what came before; its vectors lie beside it.
        users: histories before the cut, in rows of the whole item table.
        targets: rows of the next items, int [users].
        outside: users left out, whose next item has no event before the cut.
    """

    day: int
    folder: Path
    users: Sequences
    targets: np.ndarray
    outside: int

    @property
    def vectors(self) -> Path:
        return self.folder.parent / "vectors.safetensors"


def main() -> None:
    (args,) = parse_arguments([WarmStartArguments])
    if args.steps < 1 or args.days < 1 or args.part not in ("valid", "test"):
        raise DataError("--steps and --days must be at least 1, --part valid or test.")
    data = RecommendationData.load(args.dataset)
    vectors = load_embeddings(args.embeddings, data.num_items)
    cuts = [cut_of(args, data, vectors, number) for number in range(args.steps + 1)]
    first = trained(args, cuts[0], "base")
    before, rows, compared, refits = first, [], [], []
    for number, cut in enumerate(cuts[1:], 1):
        models = {"stale": first, args.variant: trained(args, cut, f"{args.variant}{number}", before)}
        before = models[args.variant]
        if args.scratch is None or number in args.scratch:
            models["scratch"] = trained(args, cut, f"scratch{number}")
        values = {}
        for name, model in models.items():
            found = answered(args, data, vectors, cut, model)
            values[name] = found["ndcg@10"]
            row = {"cut": number, "day": str(np.datetime64(cut.day, "D")), "model": name, "users": len(cut.targets)}
            row |= {"outside": cut.outside} | {key: round(float(value.mean()), 5) for key, value in found.items()}
            rows.append(row | cost_of(model))
            print(rows[-1], flush=True)
        if "scratch" in models:
            compared.append(comparison(number, values, rows, args.variant))
            refits.append({"cut": number} | refit(first, models["scratch"], data, vectors))
        content = {"recipe": args.recipe, "days": args.days, "part": args.part, "seeds": [args.seed], "rows": rows}
        content |= {"compared": compared, "refit": refits, "settings": args.settings, "going_on": args.going_on}
        write_experiment(content | {"num_beams": args.num_beams}, args.dataset, args.results_dir)


def cut_of(args: WarmStartArguments, data: RecommendationData, vectors: np.ndarray, number: int) -> Cut:
    """The cut with this number, from 0; writes its dataset where it is not there."""
    events = data.sequences
    last = int(events.timestamps.max() // SECONDS_PER_DAY) + 1
    day = last - (args.steps + 1 - number) * args.days
    earlier = events.timestamps < day * SECONDS_PER_DAY
    if not earlier.any():
        raise DataError(f"{args.dataset} has no event before cut {number}: give fewer --steps or --days.")
    known = np.zeros(data.num_items, dtype=bool)
    known[events.items[earlier]] = True
    folder = Path(args.out) / Path(args.dataset).name / f"cut{number}" / "data"
    log = {
        "user_id": data.user_ids.take(pa.array(events.users[earlier])),
        "item_id": data.items["item_id"].combine_chunks().take(pa.array(events.items[earlier])),
        "timestamp": events.timestamps[earlier],
    }
    write_dataset((data.items.filter(pa.array(known)), pa.table(log)), folder)
    write_atomically(folder.parent / "vectors.safetensors", save({"embeddings": vectors[known]}))
    counts = np.bincount(events.users[earlier], minlength=len(events))
    within = events.timestamps < (day + args.days) * SECONDS_PER_DAY
    following = np.bincount(events.users[~earlier & within], minlength=len(events)) > 0
    wanted = {"valid": 1, "test": 2}[args.part]
    chosen = np.flatnonzero((counts > 0) & following & (user_numbers(data.user_ids.to_pylist(), 2) == wanted))
    targets = events.items[events.offsets[chosen] + counts[chosen]]
    inside = known[targets]
    chosen, targets = chosen[inside], targets[inside]
    histories = [events[user][: counts[user]] for user in chosen]
    return Cut(day, folder, Sequences.from_rows(histories), targets, int((~inside).sum()))


def trained(args: WarmStartArguments, cut: Cut, name: str, init_from: Path | None = None) -> Path:
    """Train on a cut, unless that was done; return the run's folder."""
    run = Path(args.out) / Path(args.dataset).name / f"seed{args.seed}" / name
    if (run / COST).exists():
        return run
    shutil.rmtree(run, ignore_errors=True)
    settings = over(read_overrides(args.settings), {"retriever": {"seed": args.seed}})
    if init_from is not None:
        settings = over(settings, read_overrides(args.going_on))
    more: dict[str, Any] = {"embeddings": cut.vectors, "split": "all"}
    more |= {} if init_from is None else {"init_from": init_from / "model"}
    seconds = {}
    for step in ("tokenizer", "retriever"):
        start = time.process_time()
        train_step(cut, run, args.recipe, step, more | settings)
        seconds[step] = round(time.process_time() - start, 1)
    training = TigerRecommender.from_pretrained(run / "model").training
    record = {"cpu_seconds": seconds, "epochs": training["epochs"], "steps": training["steps"]}
    write_atomically(run / COST, json.dumps(record) + "\n")
    return run


def train_step(cut: Cut, run: Path, recipe: str, step: str, more: dict[str, Any]) -> None:
    """One step of a recipe on a cut's data."""
    if step == "tokenizer":
        # train() returns a recommender, which there is none of after this step.
        from tiger.training.pipeline import run_step
        from tiger.training.plan import Start, make_plan

        names = ("embeddings", "split", "init_from")
        overrides = {key: value for key, value in more.items() if key not in names}
        start = Start(str(more["init_from"]) if "init_from" in more else None, more["split"])
        plan = make_plan(cut.folder, run, recipe, embeddings=more["embeddings"], start=start, overrides=overrides)
        run_step(plan, step)
        return
    train(str(cut.folder), run, recipe, steps=[step], **more)


def cost_of(run: Path) -> dict[str, Any]:
    """CPU seconds of a run, all of them, and its steps."""
    found = json.loads((run / COST).read_text())
    return {"cpu_seconds": round(sum(found["cpu_seconds"].values()), 1)} | {
        name: found[name] for name in ("epochs", "steps")
    }


def answered(
    args: WarmStartArguments, data: RecommendationData, vectors: np.ndarray, cut: Cut, run: Path
) -> dict[str, np.ndarray]:
    """Metrics of each user by a run's model on a cut, float64 [users]; kept beside it, once they are known."""
    file = run / f"{cut.folder.parent.name}-{args.part}-{args.num_beams}.safetensors"
    if not file.exists():
        found = asked(args, data, vectors, cut, run).per_user
        write_atomically(file, save({name: np.asarray(values, np.float64) for name, values in found.items()}))
    return load_file(file)


def asked(args: WarmStartArguments, data: RecommendationData, vectors: np.ndarray, cut: Cut, run: Path):
    """Evaluation of a run's model on a cut; items that it lacks are added as new ones are."""
    tiger = TigerRecommender.from_pretrained(run / "model")
    catalog = RecommendationData.load(cut.folder)
    ids, own = data.item_ids, set(tiger.tokenizer.item_ids)
    new = [item for item in catalog.item_ids if item not in own]
    if new:
        place = {item: row for row, item in enumerate(ids)}
        tiger.add_items(new, embeddings=vectors[[place[item] for item in new]], table=None)
    rows = tiger.tokenizer.rows(ids, missing=-1)
    histories = Sequences.from_rows([rows[history] for history in cut.users])
    with torch.autocast("cpu", torch.bfloat16):
        recommend = partial(tiger.recommend_rows, num_beams=args.num_beams, rank=False)
        return evaluate(recommend, histories, rows[cut.targets])


def comparison(number: int, values: dict[str, np.ndarray], rows: list[dict], variant: str) -> dict[str, Any]:
    """Going on against scratch at one cut: ratios of NDCG@10, CPU seconds and steps, and the difference over users."""
    own = {row["model"]: row for row in rows if row["cut"] == number}
    low, high = bootstrap_interval(values[variant] - values["scratch"])
    return {
        "cut": number,
        "ndcg@10 ratio": round(own[variant]["ndcg@10"] / max(own["scratch"]["ndcg@10"], 1e-9), 4),
        "cost ratio": round(own[variant]["cpu_seconds"] / own["scratch"]["cpu_seconds"], 4),
        "steps ratio": round(own[variant]["steps"] / own["scratch"]["steps"], 4),
        "difference": round(float((values[variant] - values["scratch"]).mean()), 5),
        "interval": [round(low, 5), round(high, 5)],
    }


def refit(first: Path, scratch: Path, data: RecommendationData, vectors: np.ndarray) -> dict[str, Any]:
    """Semantic IDs that a quantizer fitted anew has changed, and how well the old one fits the items since."""
    old, new = (TigerRecommender.from_pretrained(run / "model").tokenizer for run in (first, scratch))
    changed = ids_changed(old, new)
    found: dict[str, Any] = {"items": changed["num_items"], "changed_ids": round(changed["changed_ids"], 4)}
    found["same_groups"] = [round(value, 4) for value in changed["same_groups"]]
    place = {item: row for row, item in enumerate(data.item_ids)}
    known = set(old.item_ids)
    since = [place[item] for item in new.item_ids if item not in known]
    if since:
        report = drift_report(old.quantizer, vectors[[place[item] for item in old.item_ids]], vectors[since])
        found |= {"new_items": len(since), "badly_fitted": round(report["badly_fitted"], 4), "refit": report["refit"]}
    return found


if __name__ == "__main__":
    with friendly_errors():
        main()
