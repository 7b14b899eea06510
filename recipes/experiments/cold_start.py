"""Recall of items without training events, by the share of the answer that is kept for them.

    python recipes/experiments/cold_start.py --dataset datasets/beauty [--embeddings FILE --encoder NAME] [--epochs 22]

Protocol (TIGER, arXiv 2305.05065, section 4.3): one in twenty of the items that are test targets is held out, with all
events of it, from the items that the quantizer sees and from the training log; the recipes run on the rest; then the
held-out items are added with ``add_items``, by their texts alone, and the test users of the whole log are answered.
Recall is reported by whether the target was held out. The baseline, semantic kNN, ranks items by the cosine of
their content vectors with those of the last three items of the history (.6 as much for each older one), and gets the
same shares. (Where a held-out item was one of a user's last two, one or two events more of that user do not train.)

What is done is not done again: a run that was broken off goes on, and figures for other shares cost no training.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.numpy import save
from transformers import TrainingArguments

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.results import command_line
from tiger.recommender.manifest import MANIFEST
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search import merge_with_quota
from tiger.training.arguments import parse_arguments, read_arguments
from tiger.training.retriever import RetrieverArguments, train_retriever
from tiger.training.tokenizer import TokenizerArguments, train_tokenizer
from tiger.utils.errors import DataError
from tiger.utils.files import replaced_folder, write_atomically

KS = (5, 10, 20)
RECIPES = Path(__file__).parents[1]
HELD_OUT = "held_out.json"


@dataclass
class ColdStartArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    work_dir: str = field(default="runs/cold_start", metadata={"help": "what is trained goes to a folder of it"})
    results_dir: str = "recipes/results/cold_start"
    recipes: str = field(default=str(RECIPES / "beauty"), metadata={"help": "tokenizer.yaml and retriever.yaml"})
    encoder: str | None = field(default=None, metadata={"help": "in place of the recipe's, 'lsa' for one"})
    embeddings: str | None = field(default=None, metadata={"help": "the encoder's vectors, in item order"})
    epochs: int | None = field(default=None, metadata={"help": "in place of the recipe's"})
    tokenizer_options: list[str] = field(default_factory=list, metadata={"help": "key=value, for that recipe"})
    retriever_options: list[str] = field(default_factory=list, metadata={"help": "key=value, for that recipe"})
    held_out: float = field(default=0.05, metadata={"help": "share of the test items that training does not see"})
    shares: list[float] = field(default_factory=lambda: [0, 0.05, 0.1, 0.2, 0.5])
    users: int | None = field(default=None, metadata={"help": "test users, drawn at random; default: all"})
    num_beams: int = 50
    bf16: bool = True
    seed: int = 0


def main() -> None:
    (args,) = parse_arguments([ColdStartArguments])
    name = Path(args.dataset).name
    work = Path(args.work_dir) / name
    data = RecommendationData.load(args.dataset)
    embeddings = None if args.embeddings is None else load_embeddings(args.embeddings, data.num_items)
    held = hold_out(args, data, embeddings, work)
    train(args, work)
    tiger = TigerRecommender.from_pretrained(work / "model", torch.accelerator.current_accelerator() or "cpu")
    new = np.flatnonzero(held)
    vectors = None if embeddings is None else embeddings[new]
    tiger.add_items([data.item_ids[row] for row in new], table=data.items.take(new), embeddings=vectors)

    split = data.leave_one_out()
    users = np.arange(len(split.users))
    if args.users is not None and args.users < len(users):
        users = np.sort(np.random.default_rng(args.seed).choice(users, args.users, replace=False))
    histories, targets = split.test_histories.select(users), split.test_targets[users]
    if embeddings is None:
        embeddings = tiger.encoder.encode(item_texts(data.items, tiger.training.get("template")))
    rows = []
    answers = {
        "tiger": by_tiger(args, tiger, data, histories, held),
        "knn": by_neighbors(embeddings, histories, held),
    }
    for model, (all_items, seen, unseen) in answers.items():
        for share in (None, *args.shares):
            lists = {k: all_items[0][:, :k] if share is None else shared(seen, unseen, k, share) for k in KS}
            for kind, mine in (("unseen", held[targets]), ("seen", ~held[targets])):
                recall = {f"recall@{k}": hits(lists[k][mine], targets[mine]) for k in KS}
                rows.append({"model": model, "unseen_share": share, "targets": kind} | recall)
    print(table(rows))
    content = {
        "dataset": name,
        "held_out_items": int(held.sum()),
        "items": data.num_items,
        "users": {"unseen": int(held[targets].sum()), "seen": int((~held[targets]).sum())},
        "encoder": None if tiger.encoder is None else tiger.encoder.name,
        "epochs": tiger.training["epochs"],
        "num_beams": args.num_beams,
        "seed": args.seed,
        "command": command_line(sys.argv),
        "rows": rows,
    }
    Path(args.results_dir).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(args.results_dir) / f"{name}.json", json.dumps(content, indent=1) + "\n")
    plot(content, Path(args.results_dir) / f"{name}.png")
    print(f"results: {args.results_dir}")


def hold_out(
    args: ColdStartArguments, data: RecommendationData, embeddings: np.ndarray | None, work: Path
) -> np.ndarray:
    """Choose items, write the dataset without them to ``work``/dataset; bool [items], which they are."""
    candidates = np.unique(data.leave_one_out().test_targets)
    count = max(1, round(args.held_out * len(candidates)))
    held = np.zeros(data.num_items, dtype=bool)
    held[np.random.default_rng(args.seed).choice(candidates, count, replace=False)] = True
    chosen = [data.item_ids[row] for row in np.flatnonzero(held)]
    if (work / "dataset").exists():
        if json.loads((work / "dataset" / HELD_OUT).read_text()) != chosen:
            raise DataError(
                f"{work} is about other items or another log: give another --work_dir, or remove that one."
            )
        return held
    events = data.sequences
    stay = ~held[events.items]
    log = {
        "user_id": data.user_ids.take(pa.array(events.users[stay])),
        "item_id": data.items["item_id"].take(pa.array(events.items[stay])),
        "timestamp": events.timestamps[stay],
    }
    with replaced_folder(work / "dataset", HELD_OUT) as folder:
        pq.write_table(data.items.filter(pa.array(~held)), folder / "items.parquet")
        pq.write_table(pa.table(log), folder / "interactions.parquet")
        if embeddings is not None:
            write_atomically(folder / "embeddings.safetensors", save({"embeddings": embeddings[~held]}))
        write_atomically(folder / HELD_OUT, json.dumps(chosen) + "\n")
    return held


def train(args: ColdStartArguments, work: Path) -> None:
    """Train tokenizer and T5 on what is left; what is done stays."""
    common: dict[str, object] = {"dataset": str(work / "dataset")}
    if args.embeddings is not None:
        common["embeddings"] = str(work / "dataset" / "embeddings.safetensors")
    recipes, folder = Path(args.recipes), str(work / "tokenizer")
    if not (work / "tokenizer" / "report.json").exists():
        settings = common | {"output_dir": folder} | ({"encoder": args.encoder} if args.encoder else {})
        settings |= dict(option.split("=", 1) for option in args.tokenizer_options)
        train_tokenizer(*read_arguments([TokenizerArguments], recipes / "tokenizer.yaml", settings))
    settings = common | {"tokenizer": folder, "output_dir": str(work / "training"), "model_dir": str(work / "model")}
    settings |= {"num_train_epochs": args.epochs} if args.epochs is not None else {}
    settings |= dict(option.split("=", 1) for option in args.retriever_options)
    train_retriever(*read_arguments([RetrieverArguments, TrainingArguments], recipes / "retriever.yaml", settings))
    if not (work / "model" / MANIFEST).exists():
        raise DataError(f"{work / 'training'} ended without a model.")


def by_tiger(
    args: ColdStartArguments, tiger: TigerRecommender, data: RecommendationData, histories: Sequences, held: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of the dataset and scores, [users, 20]: among all items, those that training saw, and the others."""
    own = tiger.tokenizer.rows(data.item_ids)
    back = np.argsort(own)
    mapped = Sequences(histories.offsets, own[histories.items].astype(np.int32), histories.timestamps)
    lists = []
    for share, wanted in ((None, None), (0.0, ~held), (1.0, held)):
        with torch.autocast(tiger.device.type, torch.bfloat16, enabled=args.bf16):
            rows, scores = tiger.recommend_rows(
                mapped, k=max(KS), num_beams=args.num_beams, unseen_share=share, rank=False, progress=True
            )
        rows = np.where(rows < 0, -1, back[rows])
        lists.append((rows, scores) if wanted is None else only(rows, scores, wanted))
    return lists


def by_neighbors(
    embeddings: np.ndarray, histories: Sequences, held: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same by the cosine to what the user had last."""
    vectors = torch.nn.functional.normalize(torch.from_numpy(embeddings), dim=1)
    found: list[list] = [[], [], []]
    recent = histories.keep_last(3)
    for start in range(0, len(histories), 512):
        part = np.arange(start, min(start + 512, len(histories)))
        some, whole = recent.select(part), histories.select(part)
        ages = np.repeat(some.offsets[1:], some.lengths) - 1 - np.arange(len(some.items))
        profiles = torch.zeros(len(part), vectors.shape[1])
        weights = torch.from_numpy(0.6**ages).float()[:, None]
        profiles.index_add_(0, torch.from_numpy(some.users), weights * vectors[some.items])
        cosines = torch.nn.functional.normalize(profiles, dim=1) @ vectors.T
        cosines[whole.users, whole.items] = -torch.inf
        for lists, kept in zip(found, (np.ones_like(held), ~held, held)):
            allowed = cosines.masked_fill(torch.from_numpy(~kept), -torch.inf)
            scores, rows = allowed.topk(min(max(KS), len(held)), dim=1)
            lists.append((rows.masked_fill(scores == -torch.inf, -1).numpy(), scores.numpy()))
    return [tuple(np.concatenate(arrays) for arrays in zip(*lists)) for lists in found]


def only(rows: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists without the items that filled in where a kind has few."""
    kept = (rows >= 0) & wanted[rows]
    order = np.argsort(~kept, axis=1, kind="stable")
    rows, scores = np.where(kept, rows, -1), np.where(kept, scores, -np.inf)
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def shared(seen: tuple, unseen: tuple, k: int, share: float) -> np.ndarray:
    """Rows [users, k] with ``share`` of the places for unseen items, rounded up as ``recommend`` does."""
    return merge_with_quota(seen, unseen, k, int(np.ceil(share * k - 1e-9)))[0]


def hits(ranked: np.ndarray, targets: np.ndarray) -> float:
    return round(float((ranked == targets[:, None]).any(axis=1).mean()), 5)


def table(rows: list[dict]) -> str:
    lines = [f"{'model':>6} {'share':>6} {'targets':>7}" + "".join(f"{f'R@{k}':>9}" for k in KS)]
    for row in rows:
        share = "none" if row["unseen_share"] is None else f"{row['unseen_share']:g}"
        recall = "".join(f"{row[f'recall@{k}']:>9.4f}" for k in KS)
        lines.append(f"{row['model']:>6} {share:>6} {row['targets']:>7}{recall}")
    return "\n".join(lines)


def plot(content: dict, path: str | os.PathLike) -> None:
    """Recall by share, unseen and seen targets side by side; TIGER solid, kNN dashed."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, 2), ("unseen", "seen")):
        for k, color in zip(KS, ("#4c78a8", "#f58518", "#54a24b")):
            for model, line in (("tiger", "-o"), ("knn", "--x")):
                found = [r for r in content["rows"] if (r["model"], r["targets"]) == (model, kind)]
                points = [(r["unseen_share"], r[f"recall@{k}"]) for r in found if r["unseen_share"] is not None]
                axes.plot(*zip(*points), line, color=color, label=f"{model}, k = {k}", markersize=4, linewidth=1.5)
        count = content["users"][kind]
        axes.set(
            xlabel="share of the answer for unseen items", ylabel="recall@k", title=f"{kind} targets, {count:,} users"
        )
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3)
    figure.savefig(path)


if __name__ == "__main__":
    with friendly_errors():
        main()
