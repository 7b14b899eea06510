"""Training examples a CPU-second, beside cornac and torch-rechub: the same T5, batch and optimizer; Beauty's prefixes.

    python recipes/speed/training.py [--dataset datasets/beauty] [--repeats 5]

An example is one target with its history. Peers get their batches ready made, so what is timed is forward, backward
and step alone; ours makes its batches within the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import torch
from benchmark import SpeedArguments, interleaved, load_or_make, one_thread, write_result
from peers import Cornac, missing
from torch.profiler import ProfilerActivity, profile
from transformers import T5ForConditionalGeneration, set_seed

from tiger.cli.common import friendly_errors
from tiger.retriever.config import t5_config
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import LengthBatchSampler, TrainingExamples
from tiger.retriever.model import next_item_loss
from tiger.training.arguments import parse_arguments

BARS = {"tiger, as T5 stands, against cornac": 8.0, "tiger, shared, against cornac": 15.0}
SHARED, PLAIN = "tiger, shared", "tiger, as T5 stands"
# What an operator is for, in the profile.
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "softmax and loss": ("softmax", "nll", "cross_entropy", "logsumexp"),
    "norms": ("rms_norm", "layer_norm", "rsqrt", "pow"),
    "casts and copies": ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous", "aten::cat"),
    "optimizer": ("adam", "_foreach", "clip"),
    "embeddings": ("embedding", "index"),
    "dropout, residuals and other elementwise": (
        "aten::mul",
        "aten::add",
        "aten::div",
        "dropout",
        "relu",
        "threshold",
    ),
}


@dataclass
class TrainingSpeedArguments(SpeedArguments):
    batch: int = field(default=256, metadata={"help": "targets per step"})
    steps: int = field(default=4, metadata={"help": "steps of ours in a timed run; peers run one"})


def main() -> None:
    (args,) = parse_arguments([TrainingSpeedArguments])
    one_thread()
    recommender, data = load_or_make(args)
    tokenizer, train = recommender.tokenizer, data.leave_one_out().train
    examples = TrainingExamples(train, shared=False)
    candidates: dict[str, tuple[Callable[[], int], int]] = {}

    set_seed(0)
    model = T5ForConditionalGeneration(t5_config(tokenizer))
    candidates[SHARED] = ours(model, TrainingExamples(train), tokenizer, args)
    plain = T5ForConditionalGeneration(t5_config(tokenizer, history_attention="full"))
    candidates[PLAIN] = ours(plain, examples, tokenizer, args)
    random = np.random.default_rng(0)
    batches = [
        [examples[index] for index in random.choice(len(examples), args.batch, replace=False)]
        for _ in range(args.repeats + 1)
    ]
    reasons = [reason for reason in (missing("cornac"), missing("torch_rechub")) if reason]
    for bfloat16 in (False, True):
        suffix = ", bfloat16" if bfloat16 else ""
        if not missing("cornac"):
            candidates["cornac" + suffix] = cornac(plain.config, tokenizer, batches, bfloat16)
        if not missing("torch_rechub"):
            candidates["torch-rechub" + suffix] = rechub(plain.config, tokenizer, batches, bfloat16)

    counts: dict[str, int] = {}

    def counted(name, step):
        def run():
            counts[name] = step()

        return run

    timed = interleaved(
        {name: counted(name, step) for name, step in candidates.items()}, args.repeats, label="training"
    )
    rates = {name: counts[name] / t["cpu_seconds"] for name, t in timed.items()}
    peak = matrix_product_peak()
    flops = useful_flops(model, TrainingExamples(train), tokenizer.depth)
    # Tokens that the model reads or writes, of a target: its share of the history's tokens, and its own.
    tokens = train_tokens(TrainingExamples(train), tokenizer.depth)
    content = {
        "what": f"training examples a CPU-second on one thread, medians of interleaved runs, batches of {args.batch}",
        "examples_per_cpu_second": {name: round(rate, 2) for name, rate in rates.items()},
        "cpu_ms_per_example": {name: round(1e3 / rate, 3) for name, rate in rates.items()},
        "cpu_seconds": {name: t["cpu_all"] for name, t in timed.items()},
        "examples_timed": counts,
        "ratios": {
            f"{name}, against {peer}": round(rates[name] / rates[peer], 1)
            for name in (SHARED, PLAIN)
            for peer in rates
            if not peer.startswith("tiger")
        },
        "bars": BARS,
        "matrix_product_peak_gflops": round(peak / 1e9, 1),
        "useful_mflops_per_example": round(flops / 1e6, 1),
        "tokens_per_second": round(tokens * rates[SHARED]),
        "model_flops_utilisation": round(flops * rates[SHARED] / peak, 3),
        "padding_share": padding(TrainingExamples(train), args.batch),
        "profile_share_of_cpu_time": where_time_goes(candidates[SHARED]),
        "could_not_run": reasons,
    }
    for name, rate in rates.items():
        print(f"{name:>24}: {rate:8.1f} examples a CPU-second")
    print({name: content[name] for name in ("ratios", "model_flops_utilisation", "profile_share_of_cpu_time")})
    write_result(args, "training", content)


def ours(model, examples: TrainingExamples, tokenizer, args: TrainingSpeedArguments) -> Callable[[], int]:
    """A few steps of TigerTrainer's loop: batches of one length, bfloat16, fused AdamW."""
    sampler, collate = LengthBatchSampler(examples, args.batch), TrainingCollator(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batches = cycle(sampler)
    model.train()

    def run() -> int:
        targets = 0
        for _ in range(args.steps):
            batch = collate([examples[index] for index in next(batches)])
            targets += int((batch["labels"][..., 0] >= 0).sum())
            with torch.autocast("cpu", torch.bfloat16):
                loss = next_item_loss(model, **batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return targets

    return run


def cornac(config, tokenizer, batches: list[list[dict]], bfloat16: bool) -> Callable[[], int]:
    """One step as cornac's ``_fit_seq2seq`` makes it."""
    peer = Cornac(config, tokenizer)
    model = peer.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ready = []
    for batch in batches:
        targets = torch.from_numpy(tokenizer.semantic_ids[[int(example["items"][-1]) for example in batch]]).long()
        ready.append((*peer.inputs([example["items"][:-1][-20:] for example in batch]), targets))
    ready = cycle(ready)

    def run() -> int:
        tokens, mask, targets = next(ready)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(tokens, mask, targets)
        loss.backward()
        optimizer.step()
        return len(tokens)

    return run


def rechub(config, tokenizer, batches: list[list[dict]], bfloat16: bool) -> Callable[[], int]:
    """One step of torch-rechub's model, histories padded to the longest of the batch."""
    from torch_rechub.models.generative.tiger import TIGERModel

    model = TIGERModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    collate = TrainingCollator(tokenizer)
    ready = cycle([collate(batch) for batch in batches])

    def run() -> int:
        batch = next(ready)
        tokens, labels = batch["input_ids"], batch["labels"].flatten(1)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(input_ids=tokens, attention_mask=(tokens != 0).long(), labels=labels, return_dict=True).loss
        loss.backward()
        optimizer.step()
        return len(tokens)

    return run


def matrix_product_peak(size: int = 2048) -> float:
    """Floating-point operations a CPU-second of a large bfloat16 product."""
    a, b = torch.randn(size, size, dtype=torch.bfloat16), torch.randn(size, size, dtype=torch.bfloat16)
    timed = interleaved({"product": lambda: a @ b}, 5)
    return 2 * size**3 / timed["product"]["cpu_seconds"]


def useful_flops(model, examples: TrainingExamples, depth: int) -> float:
    """Of the matrix products, forward and backward (three times forward), a target, mean over the examples."""
    config = model.config
    inner = config.num_heads * config.d_kv
    attention, feed_forward = 4 * config.d_model * inner, 2 * config.d_model * config.d_ff
    encoder = config.num_layers * (attention + feed_forward) + config.num_decoder_layers * 2 * config.d_model * inner
    decoder = config.num_decoder_layers * (attention + attention / 2 + feed_forward)
    head = config.d_model * config.vocab_size
    history, targets = examples.history_lengths * depth, examples.num_targets * depth
    weights = history.sum() * encoder + targets.sum() * (decoder + head)
    scores = (
        2 * inner * (config.num_layers * (history**2).sum() + config.num_decoder_layers * (targets * history).sum())
    )
    return float(3 * 2 * (weights + scores) / examples.num_targets.sum())


def train_tokens(examples: TrainingExamples, depth: int) -> float:
    return float(depth * (examples.history_lengths.sum() + examples.num_targets.sum()) / examples.num_targets.sum())


def padding(examples: TrainingExamples, batch: int) -> float:
    """Share of the tokens in training batches that pad."""
    read = useful = 0
    for indices in LengthBatchSampler(examples, batch):
        lengths = examples.history_lengths[indices]
        read, useful = read + len(lengths) * lengths.max(), useful + lengths.sum()
    return round(1 - float(useful / read), 4)


def where_time_goes(run: Callable[[], int]) -> dict[str, float]:
    """CPU time of a step by kind of operator, as shares."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    shares: dict[str, float] = dict.fromkeys(KINDS, 0.0) | {"everything else": 0.0}
    for event in found.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key.lower() for name in names)), None)
        shares[kind or "everything else"] += event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: round(value / total, 3) for kind, value in sorted(shares.items(), key=lambda pair: -pair[1])}


if __name__ == "__main__":
    with friendly_errors():
        main()
