"""Train a T5 to write the semantic ID of the next item.

    python recipes/retriever.py recipes/demo/retriever.yaml [--key value ...]
    accelerate launch --multi_gpu --num_processes 2 recipes/retriever.py recipes/demo/retriever.yaml

Checkpoints and TensorBoard logs go to ``output_dir``; the finished recommender to ``model_dir``. A run that was
killed goes on from its last checkpoint when it is started again with the same settings. With ``--push_to_hub
--hub_model_id me/name`` the finished recommender goes to the Hub as well, with its card and without the items' texts
(``tiger push`` has more to choose from); a finished run can be pushed by starting it once more so.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import EarlyStoppingCallback, T5ForConditionalGeneration, TrainingArguments, set_seed

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.auto import load_encoder
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.item_vectors import log_vectors, principal_axes, word_vectors
from tiger.quantizers.report import template_of
from tiger.recommender.hub import create_repository
from tiger.recommender.manifest import MANIFEST
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.config import is_causal, t5_config
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples
from tiger.retriever.initialization import init_nearest_neighbor, init_token_embeddings
from tiger.retriever.trainer import TigerTrainer
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.arguments import parse_arguments
from tiger.training.run_record import RunRecord
from tiger.utils.errors import DataError
from tiger.utils.files import refuse_other_files


@dataclass
class RetrieverArguments:
    dataset: str = field(metadata={"help": "dataset directory, or owner/name on the Hub"})
    tokenizer: str = field(metadata={"help": "what recipes/tokenizer.py wrote"})
    model_dir: str = field(metadata={"help": "where the recommender goes"})
    shuffle_ties: int | None = field(
        default=None, metadata={"help": "seed: events of one day in random order; default: as published"}
    )
    max_history: int = field(default=20, metadata={"help": "items of a history that the model reads"})
    history_attention: str = field(default="causal", metadata={"help": "causal (fast) or full (as in the paper)"})
    tokens: str = field(
        default="codes", metadata={"help": "codes: T5 reads and writes codes, as in the paper; or prefixes of them"}
    )
    d_model: int = 128
    d_kv: int = 64
    d_ff: int = 1024
    num_heads: int = 6
    num_layers: int = 4
    num_decoder_layers: int | None = None
    dropout_rate: float = 0.1
    start_from: str = field(
        default="",
        metadata={
            "help": "what tokens start from, with shares of the dimensions, such as log:3, words:3, texts:2 (or codes)"
        },
    )
    start_share: float = field(default=1.0, metadata={"help": "of the embeddings' variance that comes from it"})
    embeddings: str | None = field(
        default=None, metadata={"help": "safetensors with the tokenizer's encoder's vectors, in place of running it"}
    )
    embedding_learning_rate: float | None = field(
        default=None, metadata={"help": "of the token embeddings; default: learning_rate"}
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "step matrices by Muon, at this rate; default, and 0: AdamW for all"}
    )
    min_steps: int = field(
        default=0, metadata={"help": "where num_train_epochs are fewer steps, more epochs make so many"}
    )
    eval_users: int | None = field(default=None, metadata={"help": "validate on so many users; default: all"})
    eval_beams: int = field(default=20, metadata={"help": "beams while validating"})
    patience: int | None = field(default=None, metadata={"help": "stop after so many evaluations without a gain"})


def main() -> None:
    # Without an accelerator, Trainer wants to be told before it allows bfloat16.
    device = [] if torch.accelerator.is_available() else ["--use_cpu", "true"]
    args, training = parse_arguments([RetrieverArguments, TrainingArguments], [*sys.argv[1:], *device])
    push = training.push_to_hub
    if push and training.hub_model_id is None:
        raise DataError("--push_to_hub wants --hub_model_id owner/name.")
    # Trainer would push checkpoints of its own making to the same place: a T5 without item table and encoder.
    training.push_to_hub = False
    refuse_other_files(args.model_dir, MANIFEST)
    data = RecommendationData.load(args.dataset)
    tokenizer = SemanticIdTokenizer.from_pretrained(args.tokenizer).with_tokens(args.tokens)
    if tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.tokenizer} numbers other items than {args.dataset} holds: fit it on this dataset.")
    tokenizer.check_split(args.shuffle_ties)
    record = RunRecord(training.output_dir, run_settings(args, training, tokenizer, data), training.world_size)
    if record.finished and Path(args.model_dir, MANIFEST).exists():
        print(f"{training.output_dir} is a finished run, saved in {args.model_dir}. Remove it to train anew.")
        if push and training.process_index == 0:
            publish(TigerRecommender.from_pretrained(args.model_dir), training)
        return
    if push and training.process_index == 0:
        create_repository(training.hub_model_id, training.hub_private_repo, training.hub_token)  # fail now, not then
    split = data.leave_one_out(args.shuffle_ties)
    if not (split.train.lengths > 1).any():
        raise DataError(
            f"{args.dataset} leaves nothing to train on: a user's last two events test and validate, and of "
            f"{len(split.users)} users none has two more before them. Give a longer log."
        )

    set_seed(training.seed)
    sizes = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "dropout_rate")
    model = T5ForConditionalGeneration(
        t5_config(tokenizer, history_attention=args.history_attention, **{size: getattr(args, size) for size in sizes})
    )
    if args.start_from:
        init_token_embeddings(model, tokenizer, *known_of_items(args, tokenizer, data, split), share=args.start_share)
        init_nearest_neighbor(model)
    train = TrainingExamples(split.train, args.max_history, shared=is_causal(model))
    if args.min_steps:
        batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
        epochs = math.ceil(args.min_steps * batch / int(train.num_targets.sum()))
        training.num_train_epochs = max(training.num_train_epochs, epochs)
    valid = EvaluationExamples(split.valid_histories, split.valid_targets, args.max_history).sample(args.eval_users)
    if training.process_index == 0:
        print(
            f"{len(split.users)} users ({split.num_left_out} with fewer than 3 events left out), "
            f"{data.num_items} items, {train.num_targets.sum()} training targets, {model.num_parameters()} parameters"
        )
    trainer = TigerTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=valid,
        processing_class=tokenizer,
        num_beams=args.eval_beams,
        embedding_learning_rate=args.embedding_learning_rate,
        muon_learning_rate=args.muon_learning_rate or None,
        callbacks=[record] + ([EarlyStoppingCallback(args.patience)] if args.patience else []),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint or record.checkpoint)
    if not trainer.is_world_process_zero():
        return
    best = trainer.state.best_metric
    known = {
        "dataset": args.dataset,
        "shuffle_ties": args.shuffle_ties,
        "seed": training.seed,
        "processes": training.world_size,
        "epochs": round(trainer.state.epoch, 2),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "seconds": round(record.seconds),
        f"validation {training.metric_for_best_model}": None if best is None else round(float(best), 5),
        "arguments": asdict(args) | training_settings(training),
        "parameters": model.num_parameters(),
    }
    known["template"] = template_of(args.tokenizer)  # for the texts of items to come
    encoder = Path(args.tokenizer) / "encoder"
    recommender = TigerRecommender(
        model,
        tokenizer,
        load_encoder(encoder) if encoder.is_dir() else None,
        data.items,
        args.max_history,
        training=known,
    )
    recommender.save_pretrained(args.model_dir)
    record.finish()
    if push:
        publish(recommender, training)
    print(f"saved to {args.model_dir}; try: tiger recommend {args.model_dir} --history {' '.join(data.item_ids[:2])}")


def known_of_items(
    args: RetrieverArguments, tokenizer: SemanticIdTokenizer, data: RecommendationData, split: LeaveOneOut
) -> list[np.ndarray]:
    """Vectors of all items, one array for each word of ``start_from``."""
    sources = {
        "codes": lambda size: principal_axes(tokenizer.quantizer.decode(tokenizer.codes), size),
        "texts": lambda size: principal_axes(encoded_texts(args, data), size),
        "words": lambda size: word_vectors(item_texts(data.items, template_of(args.tokenizer), required=False), size),
        "log": lambda size: log_vectors(split.train, data.num_items, size),
    }
    parts = [part.partition(":") for part in args.start_from.replace(" ", "").split(",")]
    readable = all(name in sources and (share or "1").isdecimal() for name, _, share in parts)
    ends = np.cumsum([int(share or 1) for _, _, share in parts]) if readable else np.zeros(1)
    sizes = np.diff(args.d_model * ends // max(ends[-1], 1), prepend=0)
    if sizes.min() < 1:
        raise DataError(
            f"start_from {args.start_from!r}: expected some of {', '.join(sources)}, each with its share of the "
            "dimensions, such as log:3, words:1."
        )
    if tokenizer.quantizer is None and any(name == "codes" for name, _, _ in parts):
        raise DataError(f"{args.tokenizer} was made from codes alone: start_from can't read codebooks.")
    return [sources[name](int(size)) for (name, _, _), size in zip(parts, sizes)]


def encoded_texts(args: RetrieverArguments, data: RecommendationData) -> np.ndarray:
    """What the tokenizer's encoder makes of the items' texts."""
    if args.embeddings:
        return load_embeddings(args.embeddings, data.num_items)
    folder = Path(args.tokenizer) / "encoder"
    if not folder.is_dir():
        raise DataError(f"{args.tokenizer} was saved without an encoder: start_from can't read texts. Leave them out.")
    return load_encoder(folder).encode(item_texts(data.items, template_of(args.tokenizer), required=False))


def publish(recommender: TigerRecommender, training: TrainingArguments) -> None:
    """Push as TrainingArguments say."""
    commit = recommender.push_to_hub(
        training.hub_model_id,
        private=training.hub_private_repo,
        token=training.hub_token,
        revision=training.hub_revision,
    )
    print(f"pushed: {commit.commit_url}")


def training_settings(training: TrainingArguments) -> dict:
    """What of TrainingArguments makes a model another one."""
    names = (
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "bf16", "seed"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"),
    )
    return {name: getattr(training, name) for name in names}


def run_settings(args, training: TrainingArguments, tokenizer: SemanticIdTokenizer, data: RecommendationData) -> dict:
    """What a run can't change half-way: the data, the semantic IDs, the model and how it is trained."""
    settings = training_settings(training) | asdict(args)
    del settings["model_dir"]
    return settings | {"semantic_ids": tokenizer.fingerprint, "events": len(data.sequences.items)}


if __name__ == "__main__":
    with friendly_errors():
        main()
