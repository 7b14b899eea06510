"""Train the retriever: a T5 that generates the semantic ID of the next item."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import (
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from tiger.data.dataset import RecommendationData
from tiger.data.identity import log_summary
from tiger.data.repeats import repeats_in_words
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.auto import load_encoder
from tiger.embeddings.item_text import has_words, item_texts
from tiger.embeddings.item_vectors import cooccurrence_vectors, principal_axes, tfidf_vectors
from tiger.quantizers.report import settings_of, template_of
from tiger.recommender.manifest import MANIFEST, read_manifest
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.config import is_causal, retriever_config, softmax_of_tokens, t5_config
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples
from tiger.retriever.initialization import grow_vocabulary, init_nearest_neighbor, init_token_embeddings
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.catalog_size import softmax_by_size, tokens_by_size
from tiger.training.learning import Learning, check_enough, check_evaluations, check_no_validation
from tiger.training.learning import some_users as some_users  # also known by this module
from tiger.training.memory import add_memory
from tiger.training.parent import Parent, check_weights_go_on, lineage, load_parent, parent_digest, still_unseen
from tiger.training.patience import Patience
from tiger.training.progress import TrainingBar
from tiger.training.retriever_arguments import RetrieverArguments as RetrieverArguments  # also known by this module
from tiger.training.run_record import RunRecord
from tiger.training.run_settings import check_folders, recorded_settings, run_settings
from tiger.training.tokenizer import embeddings_digest, load_data_and_tokenizer, saved_vectors
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.files import refuse_other_files
from tiger.utils.hub import create_repository

SOURCES = ("codes", "texts", "words", "log")  # of start_from


def train_retriever(args: RetrieverArguments, training: TrainingArguments) -> TigerRecommender | None:
    """Train the T5 of a dataset and a tokenizer; save it with all that it takes to recommend.

    Checkpoints and logs go to ``training.output_dir``, the recommender to ``args.model_dir``. A run that was killed
    goes on from its last checkpoint, a finished one is left alone. With ``training.push_to_hub`` and
    ``training.hub_model_id`` the recommender goes to the Hub as well, a finished one too. Several processes, started
    by ``accelerate launch``, train one model.

    Returns:
        The recommender, or None in processes other than the first.

    Raises:
        DataError: the dataset and the tokenizer don't belong together, there is nothing to train on, or
            ``training.output_dir`` holds a run with other settings or of other data, or lies in ``args.model_dir``.
        FileExistsError: ``args.model_dir`` holds something else than a recommender.
    """
    training, push = copy.copy(training), training.push_to_hub
    hub_id = training.hub_model_id if push else None
    if push and hub_id is None:
        raise DataError("--push_to_hub needs --hub_model_id owner/name.")
    # Trainer would push checkpoints of its own making to the same place: a T5 without item table and encoder.
    training.push_to_hub = False
    first = training.process_index == 0
    assert training.output_dir is not None  # TrainingArguments fills it in
    refuse_other_files(args.model_dir, MANIFEST)  # named first: these would be lost
    check_folders(training.output_dir, args.model_dir, args.tokenizer, "model_dir")
    data, tokenizer, digests = load_data_and_tokenizer(args.dataset, args.tokenizer, args.shuffle_ties, args.split)
    parent = load_parent(args.init_from) if args.init_from else None
    args = replace(args, tokens=_tokens(args, data, parent))
    args = replace(args, output_softmax=_softmax(args, data, parent))
    tokenizer = tokenizer.with_tokens(args.tokens)
    digests |= embeddings_digest(args.embeddings) | parent_digest(args.init_from)
    facts = {"semantic_ids": tokenizer.fingerprint, "events": len(data.sequences.items)}
    origin = {} if parent is None else _checked_origin(parent, args, tokenizer, data)
    settings = run_settings(args, training, **facts, **origin)
    record = RunRecord(training.output_dir, settings, training.world_size, digests, earlier_settings(args.tokens))
    before = _model_before(args.model_dir)
    if record.finished and before is not None:
        _check_model_of_run(args, training, record, before)
        if first:
            print(f"{training.output_dir} is a finished run, saved in {args.model_dir}. Remove it to train anew.")
        recommender = TigerRecommender.from_pretrained(args.model_dir) if first else None
    else:
        if hub_id is not None and first:  # fail now, not when the training is over
            create_repository(hub_id, training.hub_private_repo, training.hub_token)
        if first and before is not None and before.get("run") != record.identity:
            print(f"{args.model_dir} holds the model of another run, which this training will replace.")
        learning = Learning.of(args, training.seed, data, parent)
        model, state = _trained(args, training, tokenizer, learning, record)
        if not first:
            return None
        known = _training_record(args, training, state, record.seconds)
        known |= {"run": record.identity, "data": digests} | origin
        recommender = _recommender(args, model, tokenizer, learning, known)
        recommender.save_pretrained(args.model_dir)
        record.finish()
        print(f"saved to {args.model_dir}")
    if hub_id is not None and recommender is not None:
        publish(recommender, training, hub_id)
    return recommender


def _tokens(args: RetrieverArguments, data: RecommendationData, parent: Parent | None) -> str:
    """The kind of tokens; where that is left open, a parent's, however large the catalog has become."""
    if parent is not None and args.tokens == "auto":
        return parent.tiger.tokenizer.tokens
    return tokens_by_size(args.tokens, data.num_items)


def _softmax(args: RetrieverArguments, data: RecommendationData, parent: Parent | None) -> str:
    """The setting ``output_softmax``; where that is left open, a parent's, or what tokens and catalog allow."""
    if parent is not None and args.output_softmax in (None, "auto"):
        return retriever_config(parent.tiger.model).output_softmax
    return softmax_of_tokens(args.tokens, softmax_by_size(args.output_softmax, args.tokens, data.num_items))


def earlier_settings(tokens: str) -> dict[str, Any]:
    """Settings of a run of an earlier version, where its record lacks one or leaves it open."""
    defaults = {one.name: one.default for one in fields(RetrieverArguments) if one.default is not MISSING}
    return defaults | {"output_softmax": softmax_of_tokens(tokens, None)}


def _checked_origin(
    parent: Parent, args: RetrieverArguments, tokenizer: SemanticIdTokenizer, data: RecommendationData
) -> dict[str, Any]:
    """The record of a parent that training can go on from, under ``parent``."""
    check_weights_go_on(parent, args, tokenizer, data)
    return {"parent": lineage(parent, len(tokenizer))}


def _recommender(
    args: RetrieverArguments, model: TigerT5, tokenizer: SemanticIdTokenizer, learning: Learning, known: dict
) -> TigerRecommender:
    """The recommender of a trained T5; ``known`` is recorded with it, and facts of the data."""
    data, parent = learning.data, learning.parent
    known |= {"log": log_summary(data), "parameters": model.num_parameters()}
    known["exclude_history"] = learning.excludes_history(args.exclude_history)
    folder = Path(args.tokenizer) / "encoder"
    encoder = load_encoder(folder) if folder.is_dir() else None
    recommender = TigerRecommender(model, tokenizer, encoder, data.items, args.max_history, training=known)
    if args.memory:
        add_memory(recommender, data, learning.split, args.embeddings)
    if parent is not None:
        recommender.unseen = still_unseen(parent, np.bincount(learning.train.items, minlength=data.num_items))
    return recommender


def _model_before(folder: str) -> dict | None:
    """The training record of the model in a folder, empty where the model is damaged; None: there is no model."""
    if not Path(folder, MANIFEST).exists():
        return None
    try:
        return read_manifest(folder)["training"]
    except DataError:
        return {}


def _check_model_of_run(args: RetrieverArguments, training: TrainingArguments, record: RunRecord, known: dict) -> None:
    """Refuse to take another run's model for that of a finished run.

    Raises:
        DataError: the model says that it is of another one; those of older versions don't say.
    """
    if None not in (record.finished_as, known.get("run")) and known["run"] != record.finished_as:
        raise DataError(
            f"{args.model_dir} holds the model of another run than {training.output_dir}, which is finished: give the "
            "--model_dir of that run, or an empty one to save its model again."
        )


def _trained(
    args: RetrieverArguments,
    training: TrainingArguments,
    tokenizer: SemanticIdTokenizer,
    learning: Learning,
    record: RunRecord,
) -> tuple[TigerT5, TrainerState]:
    """Run the training; return the last T5, or the best if the settings say so, and the Trainer's log."""
    trainer = retriever_trainer(args, training, tokenizer, learning, [record])
    bar = TrainingBar.replace_printing(trainer, bool(training.disable_tqdm))
    assert training.output_dir is not None  # TrainingArguments fills it in
    if args.patience and (ended := Patience(args.patience).ended_at(record.checkpoint, training)):
        trainer.args.max_steps = ended  # a Trainer would take another step before it asks
    with disk_errors(training.output_dir), closing(bar):
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint or record.checkpoint)
        trainer.save_state()  # the curve, which a report draws
    return cast(TigerT5, trainer.model), trainer.state


def retriever_trainer(
    args: RetrieverArguments,
    training: TrainingArguments,
    tokenizer: SemanticIdTokenizer,
    learning: Learning,
    callbacks: Sequence[TrainerCallback] = (),
) -> TigerTrainer:
    """Make the trainer of a T5 before its first step, in each of the processes that train one model together.

    Args:
        training: made in that process, for it reads the process's rank; its number of epochs is set here.
        learning: the data.
        callbacks: beside those that the settings ask for.

    Raises:
        DataError: there is nothing to train on, or to validate on.
    """
    split = learning.split
    if not split.held_out:
        check_no_validation(args, training)
    check_evaluations(args, training)
    check_enough(learning.data, split, args.dataset)
    if training.torch_compile:
        # Batches have many shapes: one graph is to be made for all of them, not one for each.
        os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "true")
    set_seed(training.seed)
    model = _first_model(args, tokenizer, learning)
    users = args.user_tokens
    train = TrainingExamples(learning.train, args.max_history, is_causal(model), users)
    training.num_train_epochs *= learning.epochs
    if args.min_steps:
        batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
        epochs = math.ceil(args.min_steps * batch / int(train.num_targets.sum()))
        training.num_train_epochs = max(training.num_train_epochs, epochs)
    valid = None
    if split.held_out:
        valid = EvaluationExamples(*split.part("valid"), args.max_history, users).sample(args.eval_users)
    exclude_history = learning.excludes_history(args.exclude_history)
    if training.process_index == 0:
        print(_in_numbers(learning, train, model))
        print(repeats_in_words(split, exclude_history))
    return TigerTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=valid,
        processing_class=tokenizer,
        num_beams=args.eval_beams,
        exclude_history=exclude_history,
        embedding_learning_rate=args.embedding_learning_rate,
        muon_learning_rate=args.muon_learning_rate or None,
        cuda_graphs=args.cuda_graphs,
        callbacks=[*callbacks] + ([Patience(args.patience)] if args.patience else []),
    )


def _in_numbers(learning: Learning, train: TrainingExamples, model: TigerT5) -> str:
    """The data and the model in a line."""
    split = learning.split
    left_out = f" ({split.num_left_out:,} with fewer than 3 events left out)" if split.num_left_out else ""
    return (
        f"{len(split.users):,} users{left_out}, {learning.data.num_items:,} items, "
        f"{train.num_targets.sum():,} training targets, {model.num_parameters():,} parameters"
    )


def _first_model(args: RetrieverArguments, tokenizer: SemanticIdTokenizer, learning: Learning) -> TigerT5:
    """The T5 before its first step: the parent's, with tokens for new items, or an untrained one."""
    if learning.parent is None:
        return untrained_model(args, tokenizer, learning.data, replace(learning.split, train=learning.train))
    model = cast(TigerT5, learning.parent.tiger.model)
    grow_vocabulary(model, tokenizer)
    return model


def untrained_model(
    args: RetrieverArguments, tokenizer: SemanticIdTokenizer, data: RecommendationData, split: LeaveOneOut
) -> TigerT5:
    """Create the untrained T5: random, or with token embeddings initialized from item vectors."""
    names = ["d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "dropout_rate"]
    names += ["history_attention", "user_tokens", "hashed_rows", "output_softmax", "recent_items"]
    model = TigerT5(t5_config(tokenizer, **{name: getattr(args, name) for name in names}))
    if args.start_from:
        init_token_embeddings(model, tokenizer, *known_of_items(args, tokenizer, data, split), share=args.start_share)
        init_nearest_neighbor(model)
    return model


def known_of_items(
    args: RetrieverArguments, tokenizer: SemanticIdTokenizer, data: RecommendationData, split: LeaveOneOut
) -> list[np.ndarray]:
    """Return item vectors, float32 [items, share of d_model], one array per source in ``start_from``."""
    quantizer: Any = tokenizer.quantizer  # None is refused below, before it is read
    sources = {
        "codes": lambda size: principal_axes(quantizer.decode(tokenizer.codes), size),
        "texts": lambda size: principal_axes(encoded_texts(args, data), size),
        "words": lambda size: tfidf_vectors(item_texts(data.items, template_of(args.tokenizer), required=False), size),
        "log": lambda size: cooccurrence_vectors(split.train, data.num_items, size),
    }
    if not any(map(has_words, item_texts(data.items, template_of(args.tokenizer), required=False))):
        args = replace(args, start_from=without_texts(args.start_from))
    found = sources_of(args)
    if tokenizer.quantizer is None and any(name == "codes" for name, _ in found):
        raise DataError(f"{args.tokenizer} was made from codes alone: start_from can't read codebooks.")
    return [sources[name](size) for name, size in found]


def sources_of(args: RetrieverArguments) -> list[tuple[str, int]]:
    """Parse ``start_from``: names of sources and their dimensions, ``d_model`` in all; none where it is empty.

    Raises:
        DataError: it names another source, or one gets no dimension.
    """
    found = shares_of(args.start_from, args.d_model, SOURCES) if args.start_from else []
    if found is None:
        raise DataError(
            f"start_from {args.start_from!r}: expected some of {', '.join(SOURCES)}, each with its share of the "
            "dimensions, such as log:3, words:1."
        )
    return found


def without_texts(start_from: str) -> str:
    """``start_from`` without its sources that read texts, for a catalog that has none; itself if no other is left."""
    parts = [part for part in start_from.split(",") if part.partition(":")[0].strip() not in ("words", "texts")]
    return ",".join(parts) or start_from


def shares_of(text: str, dimensions: int, sources: Sequence[str]) -> list[tuple[str, int]] | None:
    """Parse sources with their shares, such as ``log:3,words:1``: their names and dimensions.

    Args:
        dimensions: in all.
        sources: names that may stand there.

    Returns:
        None where it is not like that, or a source gets no dimension.
    """
    parts = [part.partition(":") for part in text.replace(" ", "").split(",")]
    if not all(name in sources and (share or "1").isdecimal() for name, _, share in parts):
        return None
    ends = np.cumsum([int(share or 1) for _, _, share in parts])
    sizes = np.diff(dimensions * ends // max(ends[-1], 1), prepend=0)
    return None if sizes.min() < 1 else [(name, int(size)) for (name, _, _), size in zip(parts, sizes)]


def encoded_texts(args: RetrieverArguments, data: RecommendationData) -> np.ndarray:
    """The items' texts by the tokenizer's encoder, float32 [items, dimensions]."""
    if not args.embeddings and not (Path(args.tokenizer) / "encoder").is_dir():
        raise DataError(f"{args.tokenizer} was saved without an encoder: start_from can't read texts. Leave them out.")
    return saved_vectors(args.tokenizer, args.embeddings, data)


def _training_record(
    args: RetrieverArguments, training: TrainingArguments, state: TrainerState, seconds: float
) -> dict:
    """Training record that is saved with the model."""
    best = state.best_metric
    return {
        "dataset": args.dataset,
        "shuffle_ties": args.shuffle_ties,
        "seed": training.seed,
        "processes": training.world_size,
        "epochs": round(state.epoch, 2),
        "steps": state.global_step,
        "best_step": state.best_global_step,
        "seconds": round(seconds),
        f"validation {training.metric_for_best_model}": None if best is None else round(float(best), 5),
        "split": args.split,
        "arguments": asdict(args) | recorded_settings(training),
        "template": template_of(args.tokenizer),  # for the texts of new items
        "tokenizer_settings": settings_of(args.tokenizer),  # for those who go on from it
    }


def publish(recommender: TigerRecommender, training: TrainingArguments, repo_id: str) -> None:
    """Push as TrainingArguments say."""
    commit = recommender.push_to_hub(
        repo_id,
        private=training.hub_private_repo,
        token=training.hub_token,
        revision=training.hub_revision,
    )
    print(f"pushed: {commit.commit_url}")
