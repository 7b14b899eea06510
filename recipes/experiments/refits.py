"""Contribution of the T5 and of the codes to the second stage, over refits of both.

    python recipes/experiments/refits.py --recommenders runs/beauty/model0 runs/beauty/model1 runs/beauty/model2 \\
        --dataset datasets/beauty --embeddings embeddings.safetensors

For each T5, candidates and features are computed once; trees are fitted to validation targets with each seed and
without the columns of each source, and the test is ranked. The place of each user's target is kept in ``--cache``,
one safetensors file a fit, and what is there is not fitted again: a run that was stopped goes on, and T5s may be
added at the end of the list. The cache knows data, models and settings, but not the code: after a change of features
or trees, give another folder.

A difference is compared by :func:`tiger.evaluation.significance.compare_recipes`, over users and fits together. Trees
over one T5 are no independent fits of a variant that reads the T5, so their mean is one; where nothing that a variant
reads differs between the T5s, each fit of the trees is one. No two T5s share a seed of the trees.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from two_stage import content_vectors, digest, proposed, weights_of

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.metrics import hit_ranks, metrics_of_ranks
from tiger.evaluation.results import command_line
from tiger.evaluation.significance import compare_recipes
from tiger.rankers.two_stage.candidates import Candidates, Proposals
from tiger.rankers.two_stage.ranker import TwoStageOptions, TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

VARIANTS = {
    "full": (),
    "without T5": ("t5",),
    "without codes": ("codes",),
    "without T5 and codes": ("t5", "codes"),
}
METRICS = ("ndcg@10", "recall@10")
SEED_STEP = 100  # between the seeds of the trees over one T5 and over the next
CHUNK = 2048  # users whose test candidates are ranked at once


@dataclass
class RefitsArguments:
    recommenders: list[str] = field(metadata={"help": "saved recommenders: T5s of several seeds, on one split"})
    dataset: str = field(metadata={"help": "the dataset directory that they were trained on"})
    embeddings: str | None = field(default=None, metadata={"help": "content vectors; default: the encoder's"})
    results_dir: str = field(default="recipes/results/refits", metadata={"help": "where the JSON file goes"})
    cache: str = field(default="runs/refits", metadata={"help": "where beams and places of the targets are kept"})
    num_beams: int = 50
    num_proposed: int = 150
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of the trees, from 0 to 99"})
    count_validation: bool = field(
        default=False,
        metadata={"help": "measure with validation events counted, as two_stage.count_validation does"},
    )
    variants: list[str] = field(default_factory=lambda: list(VARIANTS), metadata={"help": "only these"})


@dataclass(frozen=True)
class Fit:
    """One fit of the trees.

    Args:
        variant: a key of :data:`VARIANTS`.
        t5: number of the recommender.
        seed: of the trees.
        source: digest of what the variant reads of the recommender: fits of one source differ by their trees alone.
        file: where the places of the targets are kept, or will be.
    """

    variant: str
    t5: int
    seed: int
    source: str
    file: Path


class Progress:
    """Prints a line a fit, with the time that the rest will take."""

    def __init__(self, total: int):
        self.total, self.done, self.started = total, 0, time.perf_counter()

    def show(self, fit: Fit, ndcg: float) -> None:
        self.done += 1
        seconds = time.perf_counter() - self.started
        left = seconds / self.done * (self.total - self.done) / 60
        what = f"{fit.variant}, T5 {fit.t5}, trees' seed {fit.seed}: ndcg@10 {ndcg:.5f}"
        print(f"[{self.done}/{self.total}] {what}; {seconds / 60:.1f} minutes, about {left:.0f} to go", flush=True)


def main() -> None:
    (args,) = parse_arguments([RefitsArguments], sys.argv[1:])
    check(args)
    data, fits, ties = RecommendationData.load(args.dataset), [], None
    for number, folder in enumerate(args.recommenders):
        device = torch.accelerator.current_accelerator() or "cpu"
        tiger = TigerRecommender.from_pretrained(folder, device, rank=False)
        if tiger.tokenizer.item_ids != data.item_ids:
            raise DataError(f"{folder} has other items than {args.dataset} holds.")
        if number and tiger.training.get("shuffle_ties") != ties:
            raise DataError(f"{folder} was trained on another split than {args.recommenders[0]}.")
        ties = tiger.training.get("shuffle_ties")
        vectors = content_vectors(args.embeddings, tiger, data)
        wanted = fits_of(args, data, tiger, vectors, number)
        if missing := [fit for fit in wanted if not fit.file.exists()]:
            print(f"{folder}: {len(missing)} of {len(wanted)} fits to make", flush=True)
            make(args, data, tiger, vectors, missing)
        fits += wanted
    result = {"dataset": Path(args.dataset).name, "recommenders": args.recommenders, "seeds": args.seeds}
    result |= {"num_beams": args.num_beams, "num_proposed": args.num_proposed, "shuffle_ties": ties}
    result |= {"count_validation": args.count_validation}
    result |= summary(fits) | {"command": command_line(sys.argv)}
    file = Path(args.results_dir) / f"{result['dataset']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(result, indent=1) + "\n")
    print(file.read_text(), end="")


def check(args: RefitsArguments) -> None:
    """Refuse arguments before anything is computed.

    Raises:
        DataError: an unknown variant, seeds out of range or twice, or nothing to compare.
    """
    if unknown := sorted(set(args.variants) - set(VARIANTS)):
        raise DataError(f"--variants: no {unknown[0]!r}; there are {', '.join(VARIANTS)}.")
    if len(set(args.seeds)) < len(args.seeds) or not all(0 <= seed < SEED_STEP for seed in args.seeds):
        raise DataError(f"--seeds: give different numbers from 0 to {SEED_STEP - 1}.")
    if len(args.recommenders) * len(args.seeds) < 2:
        raise DataError("one fit says nothing of refits: give two --recommenders, or two --seeds, or more.")


def fits_of(
    args: RefitsArguments,
    data: RecommendationData,
    tiger: TigerRecommender,
    vectors: np.ndarray | None,
    number: int,
) -> list[Fit]:
    """All fits over one recommender, the variants of a seed side by side."""
    read = {"t5": digest(*weights_of(tiger)) + f"-{args.num_beams}", "codes": digest(tiger.tokenizer.codes)}
    log = digest(data.sequences.items, data.sequences.offsets, data.sequences.timestamps)
    same = [log, None if vectors is None else digest(vectors), tiger.training.get("shuffle_ties"), args.num_proposed]
    same += ["validation counted"] * args.count_validation
    folder, found = Path(args.cache) / Path(args.dataset).name, []
    for seed in (number * SEED_STEP + seed for seed in args.seeds):
        for variant in args.variants:
            without = VARIANTS[variant]
            source = "; ".join(f"{name} {value}" for name, value in read.items() if name not in without)
            options = asdict(TwoStageOptions(without=without, seed=seed))
            if not options["time_dropout"]:
                del options["time_dropout"]  # the same fit as before there was this option
            made_by = hashlib.sha256(json.dumps([source, same, options]).encode()).hexdigest()[:16]
            file = folder / f"{variant.replace(' ', '-')}-{seed}-{made_by}.safetensors"
            found.append(Fit(variant, number, seed, source, file))
    return found


def make(
    args: RefitsArguments,
    data: RecommendationData,
    tiger: TigerRecommender,
    vectors: np.ndarray | None,
    missing: list[Fit],
) -> None:
    """Fit the trees over one recommender, and keep the places of the test's targets."""
    split = data.leave_one_out(tiger.training.get("shuffle_ties"))
    reads_t5 = any("t5" not in VARIANTS[fit.variant] for fit in missing)
    options = {"codes": tiger.tokenizer.codes, "vectors": vectors, "num_proposed": args.num_proposed}
    candidates = asked = Candidates.fit(split.train, data.items, **options)
    if args.count_validation:
        asked = Candidates.fit(split.test_histories, data.items, **options)
    source = tiger if reads_t5 else None
    proposals = {
        part: propose(args, source, split, counts, part) for part, counts in (("valid", candidates), ("test", asked))
    }
    progress = Progress(len(missing))
    for fit in missing:
        without = VARIANTS[fit.variant]
        targets = split.part("valid")[1]
        ranker = TwoStageRanker.fit(candidates, proposals["valid"], targets, without=without, seed=fit.seed)
        ranks = target_ranks(ranker, proposals["test"], split.part("test")[1])
        fit.file.parent.mkdir(parents=True, exist_ok=True)
        held_out = np.array([ranker.record[f"held out {metric}"] for metric in METRICS])
        kept = {"ranks": ranks, "trees": np.array(ranker.record["trees"]), "held out": held_out}
        write_atomically(fit.file, save(kept))
        progress.show(fit, metrics_of_ranks(ranks, 10, (10,))["ndcg@10"].mean())


def propose(
    args: RefitsArguments,
    tiger: TigerRecommender | None,
    split: LeaveOneOut,
    candidates: Candidates,
    part: str,
) -> Proposals:
    """Candidates of a part's users with all features, of which a fit reads those of its variant.

    Args:
        tiger: whose beams are candidates too; None: nobody's, no variant reads a T5.
    """
    counted = args.count_validation and part == "test"  # the trees learn from counts of the training part
    beams = () if tiger is None else proposed(args, tiger, split, part, counted)[:2]
    return candidates.propose(split.part(part)[0], *beams, progress=True)


def target_ranks(ranker: TwoStageRanker, proposals: Proposals, targets: np.ndarray) -> np.ndarray:
    """Place of each user's target among the candidates, int32 [n] from 0; the number of candidates: not among them."""
    found = []
    for start in range(0, len(targets), CHUNK):
        users = slice(start, start + CHUNK)
        part = Proposals(proposals.rows[users], proposals.columns[users])
        if not ranker.reads_t5:
            part = ranker.candidates.without_beams(part)
        found.append(hit_ranks(ranker.best(part, part.rows.shape[1])[0], targets[users]))
    return np.concatenate(found).astype(np.int32)


def summary(fits: list[Fit]) -> dict:
    """Means and spreads of each variant, and what the full one has over each."""
    values: dict[str, dict[str, np.ndarray]] = {}
    variants: dict[str, dict] = {}
    for variant in dict.fromkeys(fit.variant for fit in fits):
        own = [fit for fit in fits if fit.variant == variant]
        kept = [load_file(fit.file) for fit in own]
        users = [metrics_of_ranks(found["ranks"], 10, (10,)) for found in kept]
        sources = [fit.source for fit in own]
        row: dict = {"fits": len(own), "sources": len(set(sources))}
        values[variant] = {}
        for place, metric in enumerate(METRICS):
            every = np.stack([found[metric] for found in users])
            values[variant][metric] = independent_fits(every, sources)
            held_out = np.mean([found["held out"][place] for found in kept])
            row[metric] = spreads(every, sources) | {"held out": round(float(held_out), 5)}
        row["trees"] = [int(count) for found in kept for count in found["trees"]]
        variants[variant] = row
    compared = {
        variant: {metric: compared_with(values["full"][metric], found[metric]) for metric in METRICS}
        for variant, found in values.items()
        if variant != "full" and "full" in values
    }
    return {"variants": variants, "full less this": compared}


def independent_fits(values: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """Mean of the fits of each source, or the fits themselves where all have one source: float [fits, users].

    What comes out may count as fits that don't depend on each other.

    Args:
        values: float [all fits, users], a metric.
        sources: of each fit, what it reads of its recommender.
    """
    names = list(dict.fromkeys(sources))
    if len(names) == 1:
        return values
    return np.stack([values[np.array(sources) == name].mean(axis=0) for name in names])


def spreads(values: np.ndarray, sources: Sequence[str]) -> dict[str, float]:
    """Mean, and standard deviations of fits' means: of all, of sources, and of the trees within a source."""
    means, places = values.mean(axis=1), np.array(sources)
    found = {"mean": means.mean(), "std over fits": means.std(ddof=1)}
    groups = [means[places == name] for name in dict.fromkeys(sources)]
    if len(groups) > 1:
        found["std over sources"] = np.std([group.mean() for group in groups], ddof=1)
    if all(len(group) > 1 for group in groups):
        found["std over trees"] = np.sqrt(np.mean([group.var(ddof=1) for group in groups]))
    return {name: round(float(value), 5) for name, value in found.items()}


def compared_with(full: np.ndarray, less: np.ndarray) -> dict:
    """The full variant less another, both [independent fits, users]."""
    found = compare_recipes(full, less)
    interval = [round(found.low, 5), round(found.high, 5)]
    return {"difference": round(found.difference, 5), "interval": interval, "p": found.p}


if __name__ == "__main__":
    with friendly_errors():
        main()
