"""Train a T5 to write the semantic ID of the next item.

    python recipes/retriever.py recipes/demo/retriever.yaml [--key value ...]
    accelerate launch --multi_gpu --num_processes 2 recipes/retriever.py recipes/demo/retriever.yaml

Checkpoints and TensorBoard logs go to ``output_dir``; the finished recommender to ``model_dir``. A run that was
killed goes on from its last checkpoint when it is started again with the same settings.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, T5ForConditionalGeneration, TrainingArguments, set_seed

from tiger.arguments import parse_arguments
from tiger.cli import friendly_errors
from tiger.data import DataError, RecommendationData
from tiger.embeddings import load_encoder
from tiger.examples import EvaluationExamples, TrainingExamples
from tiger.files import write_atomically
from tiger.recommender import TigerRecommender
from tiger.retriever import TigerTrainer, last_whole_checkpoint, t5_config
from tiger.t5 import is_causal
from tiger.tokenizer import SemanticIdTokenizer


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
    d_model: int = 128
    d_kv: int = 64
    d_ff: int = 1024
    num_heads: int = 6
    num_layers: int = 4
    num_decoder_layers: int | None = None
    dropout_rate: float = 0.1
    eval_users: int | None = field(default=None, metadata={"help": "validate on so many users; default: all"})
    eval_beams: int = field(default=20, metadata={"help": "beams while validating"})
    patience: int | None = field(default=None, metadata={"help": "stop after so many evaluations without a gain"})


def main() -> None:
    # Without an accelerator, Trainer wants to be told before it allows bfloat16.
    device = [] if torch.accelerator.is_available() else ["--use_cpu", "true"]
    args, training = parse_arguments([RetrieverArguments, TrainingArguments], [*sys.argv[1:], *device])
    check_settings(args, training)
    data = RecommendationData.load(args.dataset)
    tokenizer = SemanticIdTokenizer.from_pretrained(args.tokenizer)
    if tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.tokenizer} numbers other items than {args.dataset} holds: fit it on this dataset.")
    split = data.leave_one_out(args.shuffle_ties)

    set_seed(training.seed)
    sizes = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "dropout_rate")
    model = T5ForConditionalGeneration(
        t5_config(tokenizer, history_attention=args.history_attention, **{size: getattr(args, size) for size in sizes})
    )
    train = TrainingExamples(split.train, args.max_history, shared=is_causal(model))
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
        callbacks=[EarlyStoppingCallback(args.patience)] if args.patience else None,
    )
    start = time.time()
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint or last_whole_checkpoint(training.output_dir))
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
        "seconds": round(time.time() - start),
        f"validation {training.metric_for_best_model}": None if best is None else round(float(best), 5),
        "arguments": asdict(args),
        "parameters": model.num_parameters(),
    }
    encoder = Path(args.tokenizer) / "encoder"
    TigerRecommender(
        model,
        tokenizer,
        load_encoder(encoder) if encoder.is_dir() else None,
        data.items,
        args.max_history,
        training=known,
    ).save_pretrained(args.model_dir)
    print(f"saved to {args.model_dir}; try: tiger recommend {args.model_dir} --history {' '.join(data.item_ids[:2])}")


def check_settings(args: RetrieverArguments, training: TrainingArguments) -> None:
    """Refuse to go on with a run that was begun with other settings."""
    settings = asdict(args) | {
        name: getattr(training, name)
        for name in ("learning_rate", "per_device_train_batch_size", "num_train_epochs", "max_steps", "seed")
    }
    file = Path(training.output_dir) / "settings.json"
    if last_whole_checkpoint(training.output_dir) and file.exists():
        before = json.loads(file.read_text())
        changed = [
            f"{key}: {before.get(key)} -> {value}" for key, value in settings.items() if before.get(key) != value
        ]
        if changed:
            raise DataError(
                f"{training.output_dir} holds a run with other settings ({'; '.join(changed)}): "
                "give another --output_dir, or remove that one."
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(settings, indent=1))


if __name__ == "__main__":
    with friendly_errors():
        main()
