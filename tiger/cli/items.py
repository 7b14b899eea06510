"""``tiger items``: change the catalog of a saved recommender. The directory is replaced as a whole."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np

from tiger.cli.common import add_device_option, load_recommender, print_warnings, words
from tiger.data.readers import read_items
from tiger.recommender.manifest import writable_folder
from tiger.utils.errors import DataError
from tiger.utils.locks import locked
from tiger.utils.paths import nearest_hint

_OLD_ITEMS = 10_000  # that a report compares with


def add_items_verbs(verbs) -> None:
    """Add ``items add``, ``update``, ``remove`` and ``report`` to the parser's verbs."""
    items = verbs.add_parser("items", help="add, update or remove items; report how well the codes fit new ones")
    kinds = items.add_subparsers(dest="kind", required=True, metavar="add|update|remove|report")
    file_help = "items: .parquet, .csv or .jsonl with item_id and the columns of the item table (title, ...)"
    for name, run, what in (
        ("add", _add, "make new items recommendable; those that are known are left as they are"),
        ("update", _update, "give known items new texts; their semantic IDs follow where the codes change"),
        ("remove", _remove, "take items out of every answer"),
        ("report", _report, "do the codes still fit, or is it time to fit a new quantizer?"),
    ):
        verb = kinds.add_parser(name, help=what)
        verb.add_argument("model", metavar="RUN_DIR", help="a saved recommender")
        if name == "remove":
            verb.add_argument("ids", nargs="+", metavar="ID", help="item ids; -: from stdin")
        elif name == "report":
            verb.add_argument("file", nargs="?", metavar="FILE", help=f"{file_help}; default: what was added before")
            verb.add_argument("--old_embeddings", metavar="FILE", help="--embeddings of the old items, in their order")
        else:
            verb.add_argument("file", metavar="FILE", help=file_help)
        if name != "remove":
            verb.add_argument("--embeddings", metavar="FILE", help="safetensors, the encoder's vectors of FILE's rows")
        add_device_option(verb, "cpu", "cpu")
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.set_defaults(run=run if name == "report" else _alone(run))


def _alone(change: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Lock the directory from reading it to replacing it, so that concurrent changes don't overwrite each other."""

    def run(args: argparse.Namespace) -> None:
        folder = writable_folder(args.model)
        if not folder.is_dir():
            raise DataError(
                f"{args.model} is not a directory{nearest_hint(args.model)}: items are changed in a saved recommender "
                "on this machine."
            )
        args.model = str(folder)
        with locked(args.model):
            change(args)

    return run


def _add(args: argparse.Namespace) -> None:
    tiger, table = load_recommender(args.model, device=args.device), read_items(args.file)
    with print_warnings():
        added = tiger.add_items(table["item_id"].to_pylist(), table=table, embeddings=_given_vectors(args, len(table)))
    if added:
        tiger.save_pretrained(args.model)
    collisions = int((tiger.tokenizer.semantic_ids[tiger.tokenizer.rows(added), -1] > 0).sum())
    counts = {"added": len(added), "known_already": len(table) - len(added), "collisions": collisions}
    _tell(args, tiger, counts, "{added} added, {known_already} known already; {collisions} share codes with another")


def _update(args: argparse.Namespace) -> None:
    tiger, table = load_recommender(args.model, device=args.device), read_items(args.file)
    with print_warnings():
        vectors = _given_vectors(args, len(table))
        changed = tiger.update_items(table["item_id"].to_pylist(), table=table, embeddings=vectors)
    tiger.save_pretrained(args.model)
    counts = {"updated": len(table), "new_semantic_ids": len(changed)}
    _tell(args, tiger, counts, "{updated} updated, {new_semantic_ids} of them have another semantic ID now")


def _remove(args: argparse.Namespace) -> None:
    tiger, ids = load_recommender(args.model, device=args.device), words(args.ids)
    tiger.remove_items(ids)
    tiger.save_pretrained(args.model)
    _tell(args, tiger, {"removed": len(set(ids))}, "{removed} removed")


def _report(args: argparse.Namespace) -> None:
    from tiger.embeddings.base import load_embeddings
    from tiger.embeddings.item_text import item_texts
    from tiger.semantic_ids.drift import drift_report

    tiger = load_recommender(args.model, device=args.device)
    template = tiger.training.get("template")
    seen = np.flatnonzero(~tiger.unseen)
    if args.file is None:
        if not tiger.unseen.any() or tiger.items is None or args.embeddings is not None:
            raise DataError("no items were added since training: give a FILE of new items.")
        table = tiger.items.take(np.flatnonzero(tiger.unseen))
        # Items that were added by their vectors, or by texts that are in no table, can't be read again.
        table = table.filter([bool(text) for text in item_texts(table, template, required=False)])
        if len(table) == 0:
            raise DataError("the item table has no texts of the items added since training: give a FILE of them.")
    else:
        table = read_items(args.file)
    at = tiger.tokenizer.rows(table["item_id"].to_pylist(), missing=-1)
    fresh = np.flatnonzero((at < 0) | tiger.unseen[at])
    if len(fresh) == 0:
        raise DataError(f"{args.file} holds no item that is new since training.")
    with print_warnings():
        vectors = _given_vectors(args, len(table))
        table = table.take(fresh)
        new = tiger.embed_items(table["item_id"].to_pylist(), table=table) if vectors is None else vectors[fresh]
    if args.old_embeddings is not None:
        old = load_embeddings(args.old_embeddings, len(tiger.tokenizer))[seen]
    elif tiger.items is None or tiger.encoder is None:
        raise DataError(f"{args.model} lacks the item table or the encoder: give the old items' --old_embeddings.")
    else:
        seen = np.sort(np.random.default_rng(0).permutation(seen)[:_OLD_ITEMS])
        texts = [text for text in item_texts(tiger.items.take(seen), template, required=False) if text]
        if not texts:
            raise DataError(f"{args.model} has no texts of the old items: give their --old_embeddings.")
        old = tiger.encoder.encode(texts)
    report = drift_report(tiger.tokenizer.quantizer, old, new)
    if args.json:
        print(json.dumps(report))
        return
    names = ("num_items", "relative_error", "collision_share", "perplexity", "codes_used")
    for name in names:
        before, after = (_short(report[part][name]) for part in ("old", "new"))
        print(f"{name.replace('_', ' '):>16}  old {before:>18}  new {after:>18}")
    print(f"{'badly fitted':>16}  new {report['badly_fitted']:.1%}, where 5% of the old ones are")
    print("refit the quantizer: " + " ".join(report["reasons"]) if report["refit"] else "no need to refit")


def _given_vectors(args: argparse.Namespace, count: int) -> np.ndarray | None:
    from tiger.embeddings.base import load_embeddings

    return None if args.embeddings is None else load_embeddings(args.embeddings, count)


def _tell(args: argparse.Namespace, tiger, counts: dict[str, int], sentence: str) -> None:
    counts |= {"items": len(tiger.tokenizer)}
    if args.json:
        print(json.dumps(counts))
    else:
        print(f"{args.model}: {sentence.format(**counts)}; {counts['items']:,} items now")


def _short(value) -> str:
    if isinstance(value, list):
        return " ".join(_short(entry) for entry in value)
    return str(value) if isinstance(value, int) else f"{value:.3g}"
