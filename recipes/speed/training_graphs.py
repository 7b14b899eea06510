"""Training steps eager and as CUDA graphs: are the losses the same, and how long does a step take?

python recipes/speed/training_graphs.py [--targets 2048] [--steps 64] [--profile]
"""

from __future__ import annotations

import argparse
import copy
import json
import time

import numpy as np
import torch
from gpu import first_batches, optimizer_of

from tiger.data.sequences import Sequences
from tiger.retriever.config import t5_config
from tiger.retriever.dataset import TrainingExamples
from tiger.retriever.model import TigerT5, next_item_loss
from tiger.retriever.training_graph import TrainingGraphs
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--profile", action="store_true", help="print the kernels that take most of a replayed step")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU on this machine: CUDA graphs were not measured")
        return
    random = np.random.default_rng(0)
    tokenizer = SemanticIdTokenizer(
        random.integers(256, size=(args.items, 3)), [str(row) for row in range(args.items)], 256
    )
    lengths = np.minimum(2 + random.geometric(0.15, 4 * args.targets), 21)
    examples = TrainingExamples(Sequences.from_rows([random.integers(args.items, size=n) for n in lengths]))
    batches = first_batches(examples, tokenizer, args.targets, "cuda")
    found: dict[str, object] = {"device": torch.cuda.get_device_name(), "targets": args.targets}
    for dropout in (0.0, 0.1):
        torch.manual_seed(0)
        first = TigerT5(t5_config(tokenizer, dropout_rate=dropout)).cuda().train()
        losses = {}
        for way in ("eager", "graphs"):
            losses[way], seconds = train(copy.deepcopy(first), batches, args.steps, way == "graphs")
            found[f"{way}, dropout {dropout}, ms a step"] = round(1e3 * seconds, 2)
        found[f"dropout {dropout}, losses"] = {way: values[:: args.steps // 4] for way, values in losses.items()}
    print(json.dumps(found, indent=1))
    if args.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            train(first, batches, 16, True)
        print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=70))


def train(model: TigerT5, batches: list[dict], steps: int, graphs: bool) -> tuple[list[float], float]:
    """Losses by step, and seconds a step of the second half, the optimizer's included."""
    optimizer = optimizer_of(model, muon=True)

    def loss_of(**batch):
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=not graphs):
            return next_item_loss(model, **batch)

    recorded = TrainingGraphs(model, loss_of) if graphs else None
    losses = []
    for step in range(2 * steps):
        if step == steps:
            torch.cuda.synchronize()
            start = time.perf_counter()
        batch = batches[step % len(batches)]
        if recorded is None:
            loss = loss_of(**batch)
            loss.backward()
        else:
            loss = recorded.step(batch)
        losses.append(loss.detach().clone())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / steps
    return [round(float(loss), 4) for loss in losses], seconds


if __name__ == "__main__":
    main()
