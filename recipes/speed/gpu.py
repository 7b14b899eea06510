"""The same on a GPU: decoding, the trie at ten million items, training. Says so where there is none.

python recipes/speed/gpu.py [--dataset datasets/beauty] [--items 10000000]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from benchmark import SpeedArguments, histories_of, load_or_make, write_result
from catalogue import random_table

from tiger.cli.common import friendly_errors
from tiger.data.sequences import pad_rows
from tiger.retriever.beam_search import beam_search
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import LengthBatchSampler, TrainingExamples
from tiger.retriever.model import next_item_loss
from tiger.retriever.optimizer import MuonAdamW
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.arguments import parse_arguments


@dataclass
class GPUArguments(SpeedArguments):
    beams: int = 50
    batch: int = 1024
    items: int = 10_000_000
    device: str = "cuda"
    compiled: bool = field(default=True, metadata={"help": "time torch.compile with CUDA graphs as well"})


def main() -> None:
    (args,) = parse_arguments([GPUArguments])
    if args.device == "cuda" and not torch.cuda.is_available():
        write_result(args, "gpu", {"could_not_run": ["no GPU on this machine"]})
        return
    recommender, data = load_or_make(args)
    model, tokenizer = recommender.model.to(args.device), recommender.tokenizer
    trie = recommender.trie.to(args.device)
    histories = histories_of(data, args.batch)

    def decode(users: list[np.ndarray], search: Callable = beam_search) -> None:
        tokens = torch.from_numpy(tokenizer.encode(pad_rows(users))).flatten(1).to(args.device)
        with torch.autocast(args.device, torch.bfloat16):
            search(model, trie, tokens, args.beams)

    found = {"eager": decoding(args, decode, histories)}
    if args.compiled:
        # A graph for each shape: a service would pad histories to a few lengths.
        search = torch.compile(beam_search, mode="reduce-overhead", dynamic=False)
        start = time.perf_counter()
        found["compiled, CUDA graphs"] = decoding(args, lambda users: decode(users, search), histories)
        found["compiled, CUDA graphs"]["seconds_with_compiling"] = time.perf_counter() - start
    step = args.batch / found["eager"]["users_per_second"] / tokenizer.depth
    content = {
        "what": f"{args.beams} beams, bfloat16",
        "decoding": found,
        "trie": trie_step(args, step),
        "training_targets_per_second": training(args, model, tokenizer, data),
    }
    print(content)
    write_result(args, "gpu", content)


def decoding(args: GPUArguments, decode: Callable, histories: list[np.ndarray]) -> dict[str, float]:
    """Latency of one user in milliseconds, and users a second at the large batch."""
    single, many = seconds(args, lambda: decode(histories[:1]), 50), seconds(args, lambda: decode(histories), 10)
    p50, p99 = 1e3 * np.quantile(single, [0.5, 0.99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "users_per_second": args.batch / float(np.median(many))}


def seconds(args: GPUArguments, run, times: int) -> list[float]:
    """Wall seconds of each run, after three to warm up, the device's queue empty before and after."""
    found = []
    for turn in range(times + 3):
        synchronize(args)
        start = time.perf_counter()
        run()
        synchronize(args)
        if turn >= 3:
            found.append(time.perf_counter() - start)
    return found


def synchronize(args: GPUArguments) -> None:
    if args.device == "cuda":
        torch.cuda.synchronize()


def trie_step(args: GPUArguments, step: float) -> dict[str, float]:
    """Following a trie of many items for all beams of a batch: microseconds, and the share of a step."""
    trie = SemanticIdTrie.build(random_table(args.items, np.random.default_rng(0))).to(args.device)
    level = trie.depth - 2
    nodes = torch.randint(len(trie.tokens[level - 1]), (args.batch, args.beams), device=args.device)
    follow = float(np.median(seconds(args, lambda: trie.follow(level, nodes), 50)))
    return {"items": args.items, "microseconds": 1e6 * follow, "share_of_a_step": follow / step}


def training(args: GPUArguments, model, tokenizer, data) -> float:
    """Targets a second of the T5 as it stands, 2,048 a step."""
    examples = TrainingExamples(data.leave_one_out().train, shared=False)
    sampler, collate = LengthBatchSampler(examples, 2048), TrainingCollator(tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "shared" not in name]
    own = {id(p) for p in matrices}
    groups = [
        {"params": matrices, "muon": True},
        {"params": [p for p in model.parameters() if id(p) not in own]},
    ]
    optimizer = MuonAdamW(groups, lr=1e-3)
    batches = [
        {name: values.to(args.device) for name, values in collate([examples[index] for index in batch]).items()}
        for batch in islice(sampler, 8)
    ]
    model.train()

    def step() -> None:
        for batch in batches:
            with torch.autocast(args.device, torch.bfloat16):
                loss = next_item_loss(model, **batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    targets = sum(len(batch["labels"]) for batch in batches)
    return targets / float(np.median(seconds(args, step, 3)))


if __name__ == "__main__":
    with friendly_errors():
        main()
