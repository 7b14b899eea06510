"""Three catalogs in one: a dataset made of several, and what one tokenizer and one T5 are worth on each of them.

    python recipes/paper/together.py build --sets datasets/beauty datasets/sports datasets/toys --out datasets/together
    python recipes/paper/together.py evaluate --sets datasets/beauty datasets/sports datasets/toys \
        --dataset datasets/together --model runs/paper/together/model --results_dir runs/paper/together/results

Ids of items and of users get the name of their set in front, ``beauty:B00...``; to the recipes the whole is a dataset
like any other. On each set's users the model is measured twice: with the answers that it gives (``tiger-together``),
and with the catalog restricted to the set (``tiger-together-restricted``), as a model of that set alone answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.base import load_embeddings
from tiger.evaluation.results import Measured, mean_over_seeds, model_results, results_table, write_results
from tiger.evaluation.training_split import split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.allowed_items import AllowedItems
from tiger.retriever.search import CatalogPart, beams_of_users
from tiger.retriever.search_options import SearchOptions
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

NAME = "tiger-together"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    build = verbs.add_parser("build", help="make one dataset of several")
    build.add_argument("--embeddings", nargs="+", help="the sets' vectors, joined into OUT/embeddings.safetensors")
    build.add_argument("--out", type=Path, required=True, help="dataset directory to write")
    build.set_defaults(run=run_build)
    evaluate = verbs.add_parser("evaluate", help="measure a model of the whole on each set's users")
    evaluate.add_argument("--dataset", type=Path, required=True, help="what build wrote")
    evaluate.add_argument("--model", type=Path, required=True, help="a recommender trained on it")
    evaluate.add_argument("--results_dir", type=Path, required=True, help="rows go to a folder per set in it")
    evaluate.add_argument("--num_beams", type=int, default=50)
    evaluate.set_defaults(run=run_evaluate)
    for verb in (build, evaluate):
        verb.add_argument("--sets", nargs="+", type=Path, required=True, help="dataset directories")
    args = parser.parse_args()
    args.run(args)


def run_build(args: argparse.Namespace) -> None:
    names = names_of(args.sets)
    tables = [
        joined([folder / f"{part}.parquet" for folder in args.sets], names) for part in ("items", "interactions")
    ]
    RecommendationData.from_tables(*tables, str(args.out))  # before anything is written
    args.out.mkdir(parents=True, exist_ok=True)
    if args.embeddings is not None:
        if len(args.embeddings) != len(names):
            raise DataError(f"--embeddings: give one file per set, {len(names)} in all.")
        counts = [pq.read_metadata(folder / "items.parquet").num_rows for folder in args.sets]
        vectors = np.concatenate([load_embeddings(*pair) for pair in zip(args.embeddings, counts)])
        write_atomically(args.out / "embeddings.safetensors", save({"embeddings": vectors}))
    for part, table in zip(("items", "interactions"), tables):
        pq.write_table(table, args.out / f"{part}.parquet")
    print(f"{args.out}: {tables[0].num_rows:,} items, {tables[1].num_rows:,} events of {', '.join(names)}")


def names_of(folders: list[Path]) -> list[str]:
    """Names of the sets, those of their folders.

    Raises:
        DataError: two have the same.
    """
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names) or len(names) < 2:
        raise DataError(f"--sets: give two datasets or more, of folders with different names, not {', '.join(names)}.")
    return names


def joined(files: list[Path], names: list[str]) -> pa.Table:
    """Tables of several sets, one after the other, the set before all ids; a column that a set lacks is null there."""
    tables = []
    for file, name in zip(files, names):
        if not file.is_file():
            raise DataError(f"{file} is missing: prepare the dataset first.")
        table = pq.read_table(file).replace_schema_metadata(None)
        for column in ("item_id", "user_id"):
            if column in table.column_names:
                ids = pc.binary_join_element_wise(name, table[column].cast(pa.string()), ":")
                table = table.set_column(table.column_names.index(column), column, ids)
        tables.append(table)
    return pa.concat_tables(tables, promote_options="permissive")


def run_evaluate(args: argparse.Namespace) -> None:
    tiger = TigerRecommender.from_pretrained(args.model, torch.accelerator.current_accelerator() or "cpu")
    data = RecommendationData.load(args.dataset)
    if tiger.tokenizer.item_ids != data.item_ids:
        raise DataError(f"the model knows other items than {args.dataset} holds: evaluate it on its own dataset.")
    split, _ = split_of_model(data, np.arange(data.num_items), tiger.training, str(args.dataset))
    for name in names_of(args.sets):
        part, chosen = part_of(data, split, name)
        rows = measure(tiger, part, chosen, name, args.num_beams)
        print(results_table(rows))
        write_results(rows, args.results_dir / name)


def part_of(data: RecommendationData, split: LeaveOneOut, name: str) -> tuple[LeaveOneOut, np.ndarray]:
    """The users of a set, and which items are of it, bool [items].

    Raises:
        DataError: there are none.
    """
    chosen = pc.starts_with(data.items["item_id"], f"{name}:").to_numpy(zero_copy_only=False).astype(bool)
    ours = pc.starts_with(data.user_ids, f"{name}:").to_numpy(zero_copy_only=False).astype(bool)[split.users]
    if not chosen.any() or not ours.any():
        raise DataError(f"the dataset has no items or users of {name}: build it from the same --sets.")
    part = replace(
        split,
        users=split.users[ours],
        train=split.train.select(ours),
        valid_targets=split.valid_targets[ours],
        test_histories=split.test_histories.select(ours),
        test_targets=split.test_targets[ours],
    )
    return part, chosen


def measure(tiger: TigerRecommender, split: LeaveOneOut, chosen: np.ndarray, name: str, num_beams: int) -> list[dict]:
    """Rows of results on a set's users: the whole catalog, and the set's items alone."""
    allowed = AllowedItems.from_mask(tiger.trie, torch.from_numpy(chosen))
    parts = {NAME: CatalogPart(), f"{NAME}-restricted": CatalogPart((allowed,))}

    def stages(histories: Sequences, exclude_history: bool) -> Iterator[tuple[str, np.ndarray]]:
        options = SearchOptions(num_beams=num_beams, exclude_history=exclude_history, progress=True)
        state = tiger.state
        for model, part in parts.items():
            with torch.autocast(tiger.device.type, torch.bfloat16):
                found = beams_of_users(
                    state.model, state.tokenizer, tiger.trie, histories, num_beams, options, state.max_history, part
                )
            yield model, found[0]

    training = tiger.training
    measured = Measured(
        name,
        shuffle_ties=training.get("shuffle_ties"),
        seeds=(training.get("seed"),),
        encoder=None if tiger.encoder is None else tiger.encoder.name,
        facts=(("training", training), ("num_beams", num_beams)),
    )
    return mean_over_seeds(model_results(measured, stages, split)[0])


if __name__ == "__main__":
    with friendly_errors():
        main()
