"""What a campaign damages: saved recommenders, a tokenizer, a run with checkpoints, a log and its answers."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from tests.retriever.test_trainer import make_trainer
from tests.serving.test_offline import write_log
from tiger.embeddings.auto import load_encoder
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.serving.offline import recommend_users
from tiger.training.run_record import RunRecord
from tiger.utils.digests import check_digests, write_digests

FIXTURE = Path(__file__).parents[1] / "fixtures" / "model_f1fc351"
MODELS = ("two_stage", "codes", "click")
NEW = ("new-1", "Title: Folding camp lantern; Brand: Nowhere")
BATCH: dict[str, Any] = {"k": 3, "num_beams": 8, "bf16": False, "part_events": 40}
SETTINGS = {"learning_rate": 0.1, "semantic_ids": "a"}
OWNER = {"NOTES.md": "mine", ".git/HEAD": "ref: main", ".git/objects/ab/cd": "object"}


@dataclass
class Subjects:
    """Everything that tries copy, in one folder, and what it answers while it is whole.

    Args:
        folder: with ``models/NAME``, ``models/NAME-other`` (other weights, one item more), ``tokenizer``,
            ``tokenizer-other``, ``run``, ``log.parquet``, ``out.parquet`` and ``.half.parquet.parts``.
        answers: by the path within the folder.
        lengths: of operations, for tries that end them half-way: file events and seconds, by name.
    """

    folder: Path
    answers: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, tuple[int, float]] = field(default_factory=dict)


def make_subjects(folder: Path) -> Subjects:
    """Write them, and note what they answer."""
    subjects = Subjects(folder)
    for name in MODELS:
        tiger = TigerRecommender.from_pretrained(FIXTURE / name)
        tiger.save_pretrained(folder / "models" / name)
        with torch.no_grad():
            tiger.model.shared.weight *= 1.25
        tiger.ranker = None if name != "codes" else tiger.ranker
        tiger.add_items([NEW[0]], texts=[NEW[1]])
        tiger.save_pretrained(folder / "models" / f"{name}-other")
        for one in (name, f"{name}-other"):
            subjects.answers[one] = answers(TigerRecommender.from_pretrained(folder / "models" / one))
    for name, made in (("tokenizer", "codes"), ("tokenizer-other", "codes-other")):
        other = TigerRecommender.from_pretrained(folder / "models" / made)
        if name == "tokenizer-other":  # another quantizer of the same sizes
            with torch.no_grad():
                for weights in other.tokenizer.quantizer.parameters():
                    weights *= 1.5
        other.tokenizer.save_pretrained(folder / f"{name}-alone")
        other.tokenizer.save_pretrained(folder / name)
        other.encoder.save_pretrained(folder / name / "encoder")
        (folder / name / "report.json").write_text(json.dumps({"template": "title,brand"}))
        write_digests(folder / name)
        subjects.answers[name] = tokenizer_answers(folder / name)
        subjects.answers[f"{name}-alone"] = tokenizer_answers(folder / f"{name}-alone")
    tiger = TigerRecommender.from_pretrained(folder / "models" / "codes")
    write_log(folder / "log.parquet", num_users=30)
    _rename_items(folder / "log.parquet", tiger.tokenizer.item_ids)
    write_batch(tiger, folder)
    subjects.answers["batch"] = batch_answers(folder / "out.parquet")
    _interrupted_batch(tiger, folder)
    subjects.answers["run"] = train(folder / "run")
    return subjects


def _rename_items(file: Path, item_ids: list[str]) -> None:
    table = pq.read_table(file)
    names = [
        item_ids[int(item[5:]) % len(item_ids)] if item != "unknown" else item for item in table["item_id"].to_pylist()
    ]
    pq.write_table(table.set_column(table.column_names.index("item_id"), "item_id", [names]), file)


def _interrupted_batch(tiger: TigerRecommender, folder: Path) -> None:
    """Leave the folder of parts that a killed run leaves, all parts in it but the last."""
    from tiger.serving import offline

    join, offline._join_parts = offline._join_parts, lambda *_: None
    try:
        write_batch(tiger, folder, "half")
    finally:
        offline._join_parts = join
    parts = sorted((folder / ".half.parquet.parts").glob("*.parquet"))
    assert len(parts) > 2
    parts[-1].unlink()


def answers(tiger: TigerRecommender) -> str:
    """All that a recommender says, exactly."""
    ids = list(tiger.tokenizer.item_ids)
    histories = [ids[:3], ids[5:6], [], ids[7:20]]
    told: list[Any] = [ids, tiger.tokenizer.fingerprint, tiger.max_history, tiger.training, tiger.titles(ids)]
    told += _plain(tiger.recommend(histories, k=5, num_beams=8))
    if tiger.ranker is not None:
        told += _plain(tiger.rank(histories, [ids[:4]] * 4))
    tiger.add_items(["another"], texts=["Title: A lamp; Brand: Nowhere"])
    told += [tiger.tokenizer.semantic_ids.tolist(), tiger.unseen.tolist()]
    return json.dumps([*told, _plain(tiger.recommend([["another"]], k=3, num_beams=8))])


def _plain(pair: tuple) -> list:
    items, scores = pair
    return [items, [np.asarray(one).tolist() for one in scores]]


def read_tokenizer(folder: Path) -> SemanticIdTokenizer:
    """A tokenizer as the recipes read it."""
    check_digests(folder)
    return SemanticIdTokenizer.from_pretrained(folder)


def tokenizer_answers(folder: Path) -> str:
    """All that a tokenizer says, with the encoder beside it."""
    tokenizer = read_tokenizer(folder)
    quantizer = tokenizer.quantizer
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    told = [list(tokenizer.item_ids), tokenizer.semantic_ids.tolist(), tokenizer.token_table.tolist()]
    told += [tokenizer.fingerprint, tokenizer.learned_split, tokenizer.vocab_size]
    told += [None if quantizer is None else quantizer.encode(vectors).tolist()]
    if (folder / "encoder").is_dir():
        told += [load_encoder(folder / "encoder").encode([NEW[1], "lamp"]).tolist()]
    return json.dumps(told)


def write_batch(tiger: TigerRecommender, folder: Path, name: str = "out") -> None:
    """Recommend to the users of a folder's log, into a file beside it."""
    recommend_users(tiger, folder / "log.parquet", folder / f"{name}.parquet", **BATCH)


def batch_answers(file: Path) -> str:
    """The rows of a file of recommendations, whatever their order."""
    rows = [list(row.values()) for row in pq.read_table(file).to_pylist()]
    return json.dumps(sorted(rows))


def train(folder: Path) -> str:
    """Start or resume a tiny run with three checkpoints; the digest of its last weights."""
    record = RunRecord(folder, SETTINGS)
    options = {"eval_strategy": "no", "load_best_model_at_end": False, "logging_steps": 100}
    trainer = make_trainer(folder, max_steps=6, save_steps=2, **options)
    trainer.add_callback(record)
    trainer.train(resume_from_checkpoint=record.checkpoint)
    record.finish()
    weights = trainer.model.state_dict()
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def give_owner_files(folder: Path) -> None:
    """Files that no save wrote."""
    for name, content in OWNER.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def owner_files_lost(folder: Path) -> list[str]:
    """Names of those that are not there any more as they were."""
    return [name for name, text in OWNER.items() if not _reads(folder / name, text)]


def _reads(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text() == text


def leftovers(folder: Path) -> list[str]:
    """Names of temporary files and folders, locks among them."""
    marks = (".new.", ".old.", ".lock", ".parts", ".parquet.")
    return [name for name in os.listdir(folder) if name.startswith(".") and any(mark in name for mark in marks)]
