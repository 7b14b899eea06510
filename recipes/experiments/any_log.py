"""The default recipe on simulated logs of many kinds: is it ever below the baselines that it promises to reach?

    python recipes/experiments/any_log.py                                # all kinds
    python recipes/experiments/any_log.py --kinds repeats small          # some
    python recipes/experiments/any_log.py --dataset datasets/mine        # a log of your own
    python recipes/experiments/any_log.py --dataset datasets/movielens --sample 1500    # that many users of it

Each log is trained by :func:`tiger.train` with the recipe as it comes. On its test users the whole recommender is
compared with the hybrid baseline (without texts: transition), and the T5 with its memory with popularity. A promise is
broken where the difference's 95% interval over users lies below zero; ``report.html`` must name every decision.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tiger import train
from tiger.cli.common import friendly_errors
from tiger.evaluation.results import command_line
from tiger.evaluation.training_split import SUFFIX
from tiger.training.arguments import parse_arguments
from tiger.training.plan import FAST, over
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.json_files import read_json

DAY, START = 86_400, 1_600_000_000
WORDS = np.array(
    "oak pine elm ash birch cedar maple willow red blue green black white amber coral ivory lamp chair table shelf "
    "mug bowl plate spoon tent rope boot glove scarf brush towel soap".split()
)


SMALL_T5: dict[str, dict[str, Any]] = over(
    FAST, {"retriever": {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 1}}
)


@dataclass
class AnyLogArguments:
    kinds: list[str] = field(default_factory=lambda: list(KINDS), metadata={"help": "logs that are simulated"})
    dataset: str | None = field(default=None, metadata={"help": "a dataset directory, in place of simulated logs"})
    sample: int | None = field(default=None, metadata={"help": "users of the dataset, drawn at random; default: all"})
    out: str = field(default="runs/any_log", metadata={"help": "where datasets and runs go"})
    results: str = field(default="recipes/results/any_log.json", metadata={"help": "JSON file of the results"})
    users: int = field(default=2000, metadata={"help": "most users of a simulated log"})
    small_t5: bool = field(
        default=False,
        metadata={
            "help": "a T5 of 64 dimensions, for two epochs: quick, and promises have to hold for a weak one too"
        },
    )
    seed: int = field(default=0, metadata={"help": "of the simulation, and of the sample"})


@dataclass(frozen=True)
class Log:
    """A log that is being made: the items' columns, and one list of (item row, seconds) per user."""

    columns: dict[str, Any]
    users: list[list[tuple[int, int]]]

    def write(self, folder: Path) -> Path:
        """Write a dataset directory; items no event names stay in the table."""
        count = len(next(iter(self.columns.values())))
        ids = [f"i{row}" for row in range(count)]
        columns = {name: values for name, values in self.columns.items() if name != "item_id"}
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"item_id": ids, **columns}), folder / "items.parquet")
        events = [(f"u{user}", ids[item], when) for user, own in enumerate(self.users) for item, when in own]
        names = "user_id", "item_id", "timestamp"
        table = pa.table({name: [event[place] for event in events] for place, name in enumerate(names)})
        pq.write_table(table, folder / "interactions.parquet")
        return folder


def main() -> None:
    (args,) = parse_arguments([AnyLogArguments], sys.argv[1:])
    if unknown := [kind for kind in args.kinds if kind not in KINDS]:
        raise DataError(f"{unknown[0]!r} is not a kind of log: there are {', '.join(KINDS)}.")
    found = []
    for kind in [named(args)] if args.dataset else args.kinds:
        folder = log_of(kind, args)
        settings = SMALL_T5 if args.small_t5 else {}
        found.append(checked(kind, folder, Path(args.out) / "runs" / folder.name, settings))
        print(table_of(found), flush=True)
        write(args, found)
    if broken := [one["log"] for one in found if one["broken"]]:
        raise DataError(f"promises are broken on {', '.join(broken)}: see {args.results}.")


def write(args: AnyLogArguments, found: list[dict[str, Any]]) -> None:
    """Write the results so far, beside those of other logs that the file holds."""
    before = read_json(args.results) if Path(args.results).exists() else {}
    known = before["logs"] if before.get("small_t5") == args.small_t5 else []
    names = [one["log"] for one in found]
    logs = sorted(found + [one for one in known if one["log"] not in names], key=lambda one: one["log"])
    result = {"seed": args.seed, "small_t5": args.small_t5, "command": command_line(sys.argv), "logs": logs}
    write_atomically(args.results, json.dumps(result, indent=1) + "\n")


def named(args: AnyLogArguments) -> str:
    """The name of a given log among the results."""
    name = Path(str(args.dataset)).name
    return name if args.sample is None else f"{name}, {args.sample:,} users"


def log_of(kind: str, args: AnyLogArguments) -> Path:
    """The dataset directory of a simulated log, of one that is given, or of a sample of that one's users."""
    made = Path(args.out) / "data"
    if not args.dataset:
        return write_log(kind, made, args.users, args.seed)
    given = Path(args.dataset)
    if args.sample is None:
        return given
    # A folder of its own: another sample, or all users, would else go on with the run of this one.
    return sampled(given, made / f"{given.name}-{args.sample}-{args.seed}", args)


def sampled(dataset: Path, folder: Path, args: AnyLogArguments) -> Path:
    """Write a dataset directory with all items, and all events of some users.

    Raises:
        DataError: ``dataset`` has no ``interactions.parquet``, or fewer users than are to be drawn.
    """
    if not (dataset / "interactions.parquet").is_file():
        raise DataError(f"--sample reads {dataset / 'interactions.parquet'}, which is not there.")
    events = pq.read_table(dataset / "interactions.parquet")
    users = pc.unique(events["user_id"])
    if not 0 < args.sample <= len(users):
        raise DataError(f"--sample: {dataset} has {len(users):,} users, give a number from 1 to that.")
    drawn = np.random.default_rng(args.seed).choice(len(users), args.sample, replace=False)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pq.read_table(dataset / "items.parquet"), folder / "items.parquet")
    kept = events.filter(pc.is_in(events["user_id"], users.take(pa.array(np.sort(drawn)))))
    pq.write_table(kept, folder / "interactions.parquet")
    return folder


def write_log(kind: str, folder: Path, users: int, seed: int) -> Path:
    """Simulate a log of a kind into a dataset directory."""
    return KINDS[kind](np.random.default_rng([seed, *map(ord, kind)]), users).write(folder / kind)


def checked(name: str, dataset: Path, out: Path, settings: Mapping[str, Mapping]) -> dict[str, Any]:
    """Train on a log, by the default recipe under these settings, and say what came of its promises."""
    start = time.perf_counter()
    train(dataset, out, **settings)
    seconds = round(time.perf_counter() - start)
    results, report = read_json(out / "test.json"), (out / "report.html").read_text()
    broken = [text for text in map(_broken, results["comparisons"]) if text]
    broken += [f"report.html doesn't say {word}" for word in DECISIONS if f"<td>{word}</td>" not in report]
    metrics = {model: one["ndcg@10"] for model, one in results["models"].items()}
    return {
        "log": name,
        "users": results["users"],
        "ndcg@10": metrics,
        "history": "left out" if results["exclude_history"] else "kept",
        "repeats": results["repeats"],
        "broken": broken,
        "seconds": seconds,
        "comparisons": results["comparisons"],
    }


def _broken(one: dict[str, Any]) -> str:
    """A promise that a comparison breaks; empty: none."""
    below = one["high"] < 0
    return f"{one['model']} is below {one['baseline']} by {-one['difference']:.4f} N@10" if below else ""


def table_of(found: list[dict[str, Any]]) -> str:
    """One line per log: NDCG@10 of the baselines and of stages; counted with validation, where that is measured."""
    names = ("popularity", "transition", "hybrid", "memory", "tiger", "two-stage")
    lines = [f"{'log':18}{'users':>7} {'history':9}" + "".join(f"{name:>11}" for name in names) + "  seconds  broken"]
    for one in found:
        by_name = {name.removesuffix(SUFFIX): value for name, value in one["ndcg@10"].items()}  # the last of a name
        cells = "".join(f"{by_name[name]:11.4f}" if name in by_name else f"{'-':>11}" for name in names)
        head = f"{one['log'][:17]:18}{one['users']:7,} {one['history']:9}"
        lines.append(f"{head}{cells}{one['seconds']:9}  {'; '.join(one['broken']) or 'none'}")
    return "\n".join(lines)


def titles(random: np.random.Generator, groups: np.ndarray) -> list[str]:
    """Titles of two words of the item's group and two of its own."""
    own = random.choice(WORDS, (len(groups), 2))
    of_group = random.choice(WORDS, (int(groups.max()) + 1, 2))
    return [" ".join([*of_group[group], *words, f"no{row}"]) for row, (group, words) in enumerate(zip(groups, own))]


def zipf(count: int, power: float = 1.0) -> np.ndarray:
    """Shares that fall with the row."""
    shares = np.arange(1, count + 1, dtype=np.float64) ** -power
    return shares / shares.sum()


def days(random: np.random.Generator, count: int, step: float = 4.0) -> list[int]:
    """Ascending seconds, some days apart."""
    first = START + int(random.integers(0, 200)) * DAY
    return (first + (np.cumsum(random.exponential(step, count)) * DAY).astype(np.int64)).tolist()


def taste_log(random: np.random.Generator, users: int, items: int, length: tuple[int, int], stay: float = 0.8) -> Log:
    """Users who stay in a group of items with a probability, and within it go on to a next item of a ring."""
    groups = np.sort(random.integers(0, max(items // 15, 2), items))
    popular = zipf(items, 0.7)[random.permutation(items)]
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    found = []
    for _ in range(users):
        count, own = int(random.integers(*length)), []
        item = int(random.choice(items, p=popular))
        for _ in range(count):
            own.append(item)
            some = members[groups[item]]
            near = int(some[(np.searchsorted(some, item) + int(random.integers(1, 4))) % len(some)])
            item = near if random.random() < stay else int(random.choice(items, p=popular))
        found.append(list(zip(own, days(random, count))))
    return Log({"title": titles(random, groups), "categories": [f"group {group}" for group in groups]}, found)


def repeats(random: np.random.Generator, users: int) -> Log:
    """Groceries: each user has some twenty articles, and buys each again after a period of its own."""
    items = 800
    popular, groups = zipf(items, 0.8), random.integers(0, 40, items)
    found = []
    for _ in range(users // 2):
        basket = random.choice(items, int(random.integers(8, 25)), replace=False, p=popular)
        period = random.uniform(5, 60, len(basket))
        start, end = START + int(random.integers(0, 100)) * DAY, float(random.uniform(40, 120))
        events = []
        for item, wait in zip(basket, period):
            for when in np.arange(random.uniform(0, wait), end, wait):
                events.append((int(item), start + int(when + random.normal(0, 0.1) * wait) * DAY))
        found.append(sorted(events, key=lambda event: event[1])[:80])
    return Log({"title": titles(random, groups)}, [own for own in found if own])


def sessions(random: np.random.Generator, users: int) -> Log:
    """Music: sessions of seconds apart by an artist or two, favorites over and over."""
    artists, tracks = 120, 10
    groups, popular = np.repeat(np.arange(artists), tracks), zipf(artists, 0.9)
    found = []
    for _ in range(users // 2):
        liked, own = random.choice(artists, 5, replace=False, p=popular), []
        when = START + int(random.integers(0, 200 * DAY))
        for _ in range(int(random.integers(2, 6))):
            when += int(random.exponential(3 * DAY)) + 3600
            artist = int(random.choice(liked))
            for _ in range(int(random.integers(5, 25))):
                artist = int(random.choice(liked)) if random.random() < 0.1 else artist
                own.append((artist * tracks + int(random.choice(tracks, p=zipf(tracks))), when))
                when += int(random.integers(120, 300))
        found.append(own)
    names = titles(random, groups)
    return Log({"title": names, "brand": [f"artist {group}" for group in groups]}, found)


def small(random: np.random.Generator, users: int) -> Log:
    """A catalog of 300 items."""
    return taste_log(random, users, 300, (4, 14))


def sparse(random: np.random.Generator, users: int) -> Log:
    """Most items have one to three events: titles say more than the log."""
    return taste_log(random, users, 6000, (3, 6), stay=0.9)


def no_text(random: np.random.Generator, users: int) -> Log:
    """Items of which nothing is known but their ids."""
    log = taste_log(random, users, 500, (4, 14))
    return Log({"item_id": log.columns["title"]}, log.users)


def popular(random: np.random.Generator, users: int) -> Log:
    """Independent draws by popularity: there is nothing else to learn."""
    items = 600
    found = []
    for _ in range(users):
        count = int(random.integers(4, 14))
        own = random.choice(items, count, replace=False, p=zipf(items, 1.1))
        found.append([(int(item), when) for item, when in zip(own, days(random, count))])
    return Log({"title": titles(random, random.integers(0, 40, items))}, found)


def ties(random: np.random.Generator, users: int) -> Log:
    """All events of a user at one time."""
    log = taste_log(random, users, 500, (4, 14))
    return Log(log.columns, [[(item, own[0][1]) for item, _ in own] for own in log.users])


def giant_tail_users(random: np.random.Generator, users: int) -> Log:
    """Few users with thousands of events among many with a few."""
    log = taste_log(random, users, 1500, (3, 8))
    giants = taste_log(random, 4, 1500, (2000, 4000)).users
    return Log(log.columns, [*log.users, *giants])


def cold(random: np.random.Generator, users: int) -> Log:
    """Three quarters of the catalog have no events."""
    log = taste_log(random, users, 500, (4, 14))
    more = titles(random, random.integers(0, 40, 1500))
    columns = {"title": log.columns["title"] + more, "categories": [*log.columns["categories"], *[None] * 1500]}
    return Log(columns, log.users)


def two_columns(random: np.random.Generator, users: int) -> Log:
    """Titles in other scripts, values that are missing."""
    log = taste_log(random, users, 500, (4, 14))
    scripts = ("чашка синяя {}", "白い 椅子 {}", "كرسي {}", "κούπα {}", "{} 😀")
    made: list[str | None] = [scripts[row % 5].format(title) for row, title in enumerate(log.columns["title"])]
    made = [None if row % 7 == 0 else title for row, title in enumerate(made)]
    prices = [None if row % 3 else float(row) for row in range(len(made))]
    return Log(
        {"title": made, "price": prices, "brand": [None if row % 2 else "" for row in range(len(made))]}, log.users
    )


KINDS: dict[str, Callable[[np.random.Generator, int], Log]] = {
    kind.__name__: kind
    for kind in (repeats, sessions, small, sparse, no_text, popular, ties, giant_tail_users, cold, two_columns)
}
# Names of the report's section "Decisions".
DECISIONS = (
    *("semantic IDs", "tokens of the T5", "epochs", "items of the history", "memory", "second stage"),
    "validation events",
)


if __name__ == "__main__":
    with friendly_errors():
        main()
