"""Verdicts on the papers' claims, each with the figures of the results that it follows from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tables import HEADLINE, PAPER, rows_of

HOLDS, PARTLY, FAILS, OPEN = "holds", "holds in part", "does not hold", "not measured yet"
SWEEP = "bash recipes/paper/gpu.sh sweep.yaml OUT --only"
SINGH = (0.41, 0.68, 0.91, 0.97)  # mean cosine by length of the common prefix
ENTROPY = {1.0: 0.76, 1.5: 1.14, 2.0: 1.38}
INVALID = {"10": (0.1, 1.6), "20": (0.3, 6.0)}  # per cent


@dataclass(frozen=True)
class Claim:
    """A row of the table.

    Args:
        text: what a paper says.
        paper: its figures.
        ours: figures from the files; empty: there are none yet.
        verdict: one of those above, and more words.
        files: of results, below ``recipes/results/``.
        command: that measures it, where no file says so.
    """

    text: str
    paper: str
    ours: str = ""
    verdict: str = OPEN
    files: tuple[str, ...] = ()
    command: str = ""


class Results:
    """Reads files of results, each once.

    Args:
        folder: ``recipes/results``.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.read = cache(lambda name: json.loads((folder / name).read_text()))

    def files(self, experiment: str) -> tuple[str, ...]:
        """Files of an experiment, one per data set."""
        return tuple(f"{experiment}/{file.name}" for file in sorted(self.folder.glob(f"{experiment}/*.json")))

    def together(self, first: str, second: str) -> tuple[int, float, float, tuple[str, ...]] | None:
        """Two runs after as many epochs as both have: the epoch, NDCG@10 on validation of each, and the files.

        None: one is not there, or no epoch is in both.
        """
        found = self.curve(first), self.curve(second)
        if found[0] is None or found[1] is None or not (common := found[0][1].keys() & found[1][1].keys()):
            return None
        epoch = max(common)
        return epoch, found[0][1][epoch], found[1][1][epoch], tuple(dict.fromkeys(file for file, _ in found))

    def curve(self, name: str) -> tuple[str, dict[float, float]] | None:
        """The file of ``paper/`` that has a run of this name, and its validation NDCG@10 by epoch."""
        for file in sorted(self.folder.glob("paper/*.json")):
            if points := self.read(f"paper/{file.name}")["runs"].get(name):
                return f"paper/{file.name}", {round(point["epoch"]): point["eval_ndcg@10"] for point in points}
        return None


def short(value: float) -> str:
    """A metric as the papers print it: .0384."""
    return f"{value:.4f}".replace("0.", ".", 1)


def accuracy(results: Results) -> Claim:
    found = {name: rows_of(results.folder / name)["tiger-paper"][HEADLINE]["metrics"]["ndcg@10"] for name in PAPER}
    below = [name for name, value in found.items() if value < PAPER[name][1]]
    verdict = HOLDS if not below else f"{FAILS}: below on {len(below)} of {len(PAPER)} sets"
    return Claim(
        "TIGER: NDCG@10 of the recipe on Beauty, Sports, Toys",
        ", ".join(short(ndcg) for _, ndcg in PAPER.values()),
        ", ".join(map(short, found.values())),
        verdict,
        tuple(f"{name}/tiger-paper.json" for name in PAPER),
    )


def better(results: Results, text: str, paper: str, names: tuple[str, ...], command: str, base: str = "base") -> Claim:
    """A claim that ``base`` is better than other runs of the paper's recipe, by NDCG@10 on validation.

    Each is compared after as many epochs as both have.
    """
    pairs = {name: pair for name in names if (pair := results.together(base, name)) is not None}
    if len(pairs) < len(names):
        return Claim(text, paper, command=command)
    ours = [
        f"{name} {short(other)}, {base} {short(own)} after {epoch} epochs"
        for name, (epoch, own, other, _) in pairs.items()
    ]
    won = [own > other for _, own, other, _ in pairs.values()]
    files = tuple(dict.fromkeys(file for *_, some in pairs.values() for file in some))
    verdict = HOLDS if all(won) else PARTLY if any(won) else FAILS
    return Claim(text, paper, "; ".join(ours) + " (validation)", verdict, files, command)


def random_ids(results: Results) -> Claim:
    text, paper = "RQ-VAE IDs beat random ones (Beauty)", ".0384 and .0250"
    base = "beauty-90-dropout05"
    return better(results, text, paper, (f"{base}-random",), "", base)


def user_token(results: Results) -> Claim:
    rows = {row["step"]: row["test"]["ndcg@10"] for row in results.read("ablation/beauty.json")["rows"]}
    text, paper = "User tokens help (Beauty)", ".0384 and .0368 without"
    gain = rows["ours, 2,000 user tokens"] - rows["ours: AdamW for all, once more"]
    ours = f"{gain:+.4f} by a user token, our recipe"
    verdict = f"with our recipe: {HOLDS if gain > 0 else FAILS}; with the paper's: "
    pair = results.together("base", "user-tokens")
    if pair is None:
        return Claim(text, paper, ours, verdict + OPEN, ("ablation/beauty.json",))
    epoch, without, with_token, files = pair
    gain = with_token - without
    ours += f"; {gain:+.4f} after {epoch} epochs of the paper's (validation, one seed)"
    verdict += f"{HOLDS}, if by little" if gain > 0 else FAILS
    return Claim(text, paper, ours, verdict, ("ablation/beauty.json", *files))


def optimizer(results: Results) -> Claim:
    runs = results.read("paper/sweep.json")["runs"]
    muon, adamw = (runs[name][0]["eval_ndcg@10"] for name in ("muon", "adamw-large"))
    return Claim(
        "Optimizer: no claim, the choice is ours",
        "",
        f"after 8 epochs Muon {short(muon)}, AdamW {short(adamw)} (validation)",
        "Muon learns faster" if muon > adamw else "AdamW learns as fast",
        ("paper/sweep.json",),
    )


def invalid(results: Results) -> Claim:
    files = results.files("invalid_ids")
    paper = ", ".join(f"{low:g} to {high:g}% of the top {place}" for place, (low, high) in INVALID.items())
    text = "Without the trie, few answers are no item"
    if not files:
        return Claim(text, paper, command="python recipes/experiments/invalid_ids.py")
    parts, inside = [], []
    found = [row for file in files for row in results.read(file)["rows"]]
    for place, (low, high) in INVALID.items():
        values = [100 * row["invalid"][place] for row in found]
        parts.append(f"{min(values):.2f} to {max(values):.2f}% of the top {place}")
        inside += [low <= value <= high for value in values]
    above = any(100 * row["invalid"][at] > high for at, (_, high) in INVALID.items() for row in found)
    verdict = PARTLY if above else HOLDS if all(inside) else f"{HOLDS}: as few, or fewer than in the paper"
    return Claim(text, paper, ", ".join(parts), verdict, files)


def entropies(results: Results) -> Claim:
    text = "Temperature makes answers diverse: category entropy@10 at 1.0, 1.5, 2.0 (Beauty)"
    paper = " / ".join(f"{value:.2f}" for value in ENTROPY.values())
    if "diversity/beauty.json" not in results.files("diversity"):
        return Claim(text, paper, command="python recipes/experiments/diversity.py")
    rows = results.read("diversity/beauty.json")["rows"]
    found = {row["temperature"]: row["entropy@10"] for row in rows if row["sampled"] == "all levels"}
    values = [found[temperature] for temperature in ENTROPY]
    rising = all(low < high for low, high in zip(values, values[1:]))
    return Claim(
        text,
        paper,
        " / ".join(f"{value:.2f}" for value in values),
        f"{HOLDS}: it rises" if rising else FAILS,
        ("diversity/beauty.json",),
    )


def cold_start(results: Results) -> Claim:
    rows = results.read("cold_start/beauty.json")["rows"]
    found = {(row["model"], row["unseen_share"]): row for row in rows if row["targets"] == "unseen"}
    ks = [key for key in rows[0] if key.startswith("recall@")]
    won = [found["tiger", 0.1][key] > found["knn", 0.1][key] for key in ks]
    ours = (
        f"R@10 of unseen items {short(found['tiger', 0.1]['recall@10'])}, kNN {short(found['knn', 0.1]['recall@10'])}"
    )
    verdict = HOLDS if all(won) else PARTLY if any(won) else FAILS
    text = "Unseen items: TIGER beats semantic kNN at every k when they get a tenth of the places (Beauty)"
    return Claim(
        text,
        "at every k",
        ours + ", with 10%; ours has a memory, without which it lost",
        verdict,
        ("cold_start/beauty.json",),
    )


def hierarchy(results: Results) -> Claim:
    found = results.read("code_meaning/beauty.json")["kinds"]["rqvae"]
    values, chance = found["purity"], found["purity_by_chance"]
    ours = " / ".join(f"{value:.2f}" for value in values) + " of the items are of their prefix's main category, by "
    ours += "chance " + " / ".join(f"{value:.2f}" for value in chance)
    good = values == sorted(values) and values[0] > 2 * chance[0]
    text = "Codes are a hierarchy: a first code is a category, further ones divide it (Beauty)"
    return Claim(text, "a figure", ours, HOLDS if good else FAILS, ("code_meaning/beauty.json",))


def cosines(results: Results) -> Claim:
    found = results.read("code_meaning/beauty.json")["kinds"]["rqvae"]["cosine"]
    return Claim(
        "Singh et al.: cosine of items rises with the length of their common prefix",
        " / ".join(f"{value:.2f}" for value in SINGH),
        " / ".join(f"{value:.2f}" for value in found) + " (three codes)",
        HOLDS if found == sorted(found) else FAILS,
        ("code_meaning/beauty.json",),
    )


SETS = ("beauty", "sports", "toys", "movielens_1m")


def ranking(results: Results, text: str, paper: str, kinds: tuple[str, str], metric: str, sets: tuple) -> Claim:
    """AUC of rankers that read items by the first kind of features, and by the second, mean over seeds."""
    parts, won = [], []
    for name in sets:
        first, second = (mean_auc(results, name, kind, metric) for kind in kinds)
        parts.append(f"{name} {first:.3f} and {second:.3f}")
        won.append(first > second)
    return Claim(text, paper, ", ".join(parts), on_sets(won), tuple(f"ranking/{name}.json" for name in sets))


def mean_auc(results: Results, name: str, kind: str, metric: str) -> float:
    """Mean over seeds, of a ranker with 30,000 rows that reads this kind of features."""
    runs = [run for run in results.read(f"ranking/{name}.json")["runs"] if run["budget"] == 30_000]
    values = [run["metrics"][metric] for run in runs if run["kind"] == kind]
    return sum(values) / len(values)


def on_sets(won: list[bool]) -> str:
    """The verdict on a claim that holds on some of the data sets."""
    return HOLDS if all(won) else f"{PARTLY}: on {sum(won)} of {len(won)} sets" if any(won) else FAILS


def cold_gain(results: Results) -> Claim:
    """Gain of SPM pieces over random hashing, on cold items and on all."""
    parts, won = [], []
    for name in SETS[:3]:
        gains = [
            mean_auc(results, name, "spm", metric) - mean_auc(results, name, "random_hash", metric)
            for metric in ("auc_cold", "auc")
        ]
        parts.append(f"{name} {gains[0]:+.3f} on cold items, {gains[1]:+.3f} overall")
        won.append(gains[0] > gains[1])
    return Claim(
        "Singh et al.: they win most on cold items, AUC",
        "+.35 to +.55% on items of the first day",
        ", ".join(parts),
        on_sets(won),
        tuple(f"ranking/{name}.json" for name in SETS[:3]),
    )


def drift(results: Results) -> Claim:
    rows = results.read("drift/beauty.json")["rows"]
    means = {}
    for kind, chosen in (("at random", True), ("a new category", False)):
        some = [row for row in rows if ("at random" in row["held out"]) == chosen]
        means[kind] = [sum(row[part] for row in some) / len(some) for part in ("old", "new")]
    ours = "; ".join(f"{kind}: known items {old:.2f}, new {new:.2f}" for kind, (old, new) in means.items())
    fine = means["at random"][1] <= means["at random"][0]
    return Claim(
        "Singh et al.: codes of a quantizer that is months old serve as well",
        "equal AUC",
        f"relative error of reconstruction, held out {ours}",
        f"{PARTLY}: not for new categories; a ranker on old codes {OPEN}" if fine else FAILS,
        ("drift/beauty.json",),
    )


def claims(results: Results) -> list[Claim]:
    """All rows, those of TIGER first."""
    found: list[Callable[[Results], Claim]] = [accuracy, random_ids]
    rows = [one(results) for one in found]
    sweep = (
        ("RQ-VAE IDs beat LSH ones (Beauty)", ".0384 and .0309", ("ids-lsh",)),
        ("RQ-VAE IDs beat residual k-means and product quantization: not tried", "", ("ids-kmeans", "ids-product")),
        (
            "Layers: four are as good as more (Beauty; 3, 4, 5 layers)",
            ".0377 / .0384 / .0383",
            ("layers-2", "layers-6"),
        ),
        ("Width: no ablation printed", "128", ("width-64", "width-256")),
        ("History length: no ablation printed", "20 items", ("history-5", "history-50")),
    )
    rows += [better(results, text, paper, names, f"{SWEEP} {' '.join(names)}") for text, paper, names in sweep]
    rows.append(user_token(results))
    rows.append(Claim("One tokenizer for all three sets costs little (Beauty)", ".0384 and .0368"))
    rows.append(Claim("Larger models and catalogs: no figure printed", ""))
    rows += [one(results) for one in (optimizer, hierarchy, invalid, entropies, cold_start, cosines)]
    rows += [
        ranking(
            results,
            "Singh et al.: SPM pieces of IDs beat random hashing in a ranker, AUC overall",
            "more",
            ("spm", "random_hash"),
            "auc",
            SETS,
        ),
        cold_gain(results),
        ranking(
            results,
            "Singh et al.: content vectors alone lose to IDs, here to SPM pieces, AUC overall",
            "less",
            ("spm", "dense"),
            "auc",
            SETS,
        ),
        drift(results),
    ]
    return rows
