"""The same on a GPU: search eager and as CUDA graphs, exclusion, filters, the trie at ten million items, training.

    python recipes/speed/gpu.py [--seconds 400] [--sections search graphs ...]
    python recipes/speed/gpu.py --device cpu --small true    # that it runs

The model is made, not trained: the paper's T5 with random weights over random codes, which costs what a trained one
does. Each section writes its results when it is done, so that what comes later can lose nothing. Where there is no
GPU, the result says so.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from benchmark import SpeedArguments, write_result
from catalogue import random_table
from transformers import T5ForConditionalGeneration

from tiger.cli.common import friendly_errors
from tiger.data.sequences import Sequences, pad_rows
from tiger.quantizers.rqvae import RQVAE
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.allowed_items import AllowedItems
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import t5_config
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import LengthBatchSampler, TrainingExamples
from tiger.retriever.model import next_item_loss
from tiger.retriever.optimizer import MuonAdamW
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.arguments import parse_arguments

SECTIONS = ("search", "graphs", "filters", "options", "recommend", "trie", "training", "rqvae", "compiled")


@dataclass
class GPUArguments(SpeedArguments):
    device: str = "cuda"
    small: bool = field(default=False, metadata={"help": "tiny sizes, to see that everything runs"})
    seconds: float = field(default=400.0, metadata={"help": "begin no further section after so many"})
    sections: list[str] = field(default_factory=lambda: list(SECTIONS))
    beams: int = 50
    batches: list[int] = field(default_factory=lambda: [1, 64, 1024, 4096])
    catalog: int = field(default=12_101, metadata={"help": "items, as many as Beauty has"})
    users: int = field(default=22_363, metadata={"help": "for recommend(), as many as Beauty has"})
    items: int = field(default=10_000_000, metadata={"help": "of the large trie"})
    vectors: int = field(default=1_000_000, metadata={"help": "embeddings for the RQ-VAE"})
    steps: int = field(default=50, metadata={"help": "of the RQ-VAE"})
    targets: int = field(default=2048, metadata={"help": "of a training batch"})

    def shrink(self) -> None:
        self.batches, self.catalog, self.users, self.items = [1, 8], 300, 40, 2000
        self.vectors, self.steps, self.targets, self.beams = 600, 3, 64, 10


def main() -> None:
    (args,) = parse_arguments([GPUArguments])
    if args.device == "cuda" and not torch.cuda.is_available():
        write_result(args, "gpu", {"could_not_run": ["no GPU on this machine"]})
        return
    if args.small:
        args.shrink()
    bench, began = Bench(args), time.perf_counter()
    found: dict = {"what": f"the paper's T5 with random weights, {args.catalog} items, {args.beams} beams, bfloat16"}
    failed: list[str] = []
    for name in args.sections:
        if time.perf_counter() - began > args.seconds:
            failed.append(f"{name}: no time left")
            continue
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            found[name] = getattr(bench, name)()
        except Exception as error:  # the sections that follow are worth having
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}"[:300])
            continue
        found[name]["seconds"] = round(time.perf_counter() - start, 1)
        if args.device == "cuda":
            found[name]["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        print(name, found[name], flush=True)
        write_result(args, "gpu", found | ({"could_not_run": failed} if failed else {}))
    write_result(args, "gpu", found | ({"could_not_run": failed} if failed else {}))


class Bench:
    """The sections, and what they share: a made catalog, its trie, a T5 and histories."""

    def __init__(self, args: GPUArguments):
        self.args, self.random = args, np.random.default_rng(0)
        torch.manual_seed(0)
        codes = self.random.integers(256, size=(args.catalog, 3))
        self.tokenizer = SemanticIdTokenizer(codes, [f"item {row}" for row in range(args.catalog)], 256)
        self.model = T5ForConditionalGeneration(t5_config(self.tokenizer)).eval().to(args.device)
        self.catalog_trie = SemanticIdTrie.build(self.tokenizer.token_table).to(args.device)

    def histories(self, users: int) -> list[np.ndarray]:
        """Lengths as in Beauty: 2 items at least, 8 on average, 20 at most."""
        lengths = np.minimum(2 + self.random.geometric(0.15, users), 20)
        return [self.random.integers(self.args.catalog, size=length) for length in lengths]

    def tokens(self, users: int, items: int = 20) -> torch.Tensor:
        """int64 [users, items * depth], padded to ``items``, on the device."""
        rows = pad_rows([*self.histories(users), np.zeros(items, dtype=np.int64)])[:-1]
        return torch.from_numpy(self.tokenizer.encode_history(rows)).to(self.args.device)

    def searched(self, tokens: torch.Tensor, **options):
        with torch.autocast(self.args.device, torch.bfloat16):
            return beam_search(self.model, self.catalog_trie, tokens, self.args.beams, **options)

    def search(self) -> dict:
        """Eager: milliseconds of a batch and users a second, by batch size."""
        rows = {}
        for batch in self.args.batches:
            tokens = self.tokens(batch)
            rows[str(batch)] = self.timed(lambda tokens=tokens: self.searched(tokens), batch)
        return rows

    def graphs(self) -> dict:
        """The same, each batch size captured once as a CUDA graph: equal to eager, or an error."""
        if self.args.device != "cuda":
            return {"skipped": "CUDA graphs need a GPU"}
        rows = {}
        for batch in self.args.batches:
            static = self.tokens(batch)
            graph, answer = captured(lambda static=static: self.searched(static))
            fresh = self.tokens(batch)
            static.copy_(fresh)
            graph.replay()
            eager = self.searched(fresh)
            same = float((answer.rows == eager.rows).float().mean())
            if same < 0.999:
                raise AssertionError(f"batch {batch}: graph and eager agree on {same:.4f} of the answers")
            rows[str(batch)] = self.timed(graph.replay, batch) | {"same_rows": same}
        return rows

    def filters(self) -> dict:
        """Filters of histories as inputs of a graph: others are copied into it, and nothing is captured anew."""
        if self.args.device != "cuda":
            return {"skipped": "CUDA graphs need a GPU"}
        rows, trie = {}, self.catalog_trie
        masks = torch.from_numpy(self.random.random((8, self.args.catalog)) < 0.05)
        filters = [AllowedItems.from_mask(trie, mask) for mask in masks]
        for batch in self.args.batches:
            static, seen = self.tokens(batch), self.excluded(batch)
            of = torch.arange(batch, device=self.args.device) % 4
            first, second = (AllowedItems.together(some, of) for some in (filters[:4], filters[4:]))
            call = {"excluded": seen, "allowed_items": first}
            graph, answer = captured(lambda static=static, call=call: self.searched(static, **call))
            first.counts.copy_(second.counts)
            graph.replay()
            eager = self.searched(static, excluded=seen, allowed_items=second)
            allowed = masks[4:].to(self.args.device)[of.unsqueeze(1), answer.rows.clamp(min=0)]
            if not bool((allowed | (answer.rows < 0)).all()):
                raise AssertionError(f"batch {batch}: the graph answers what the new filter does not allow")
            same = float((answer.rows == eager.rows).float().mean())
            if same < 0.999:
                raise AssertionError(f"batch {batch}: graph and eager agree on {same:.4f} of the answers")
            rows[str(batch)] = self.timed(graph.replay, batch) | {"same_rows": same}
        return rows

    def excluded(self, users: int) -> torch.Tensor:
        """Rows that may not be answered, int64 [users, X], on the device."""
        return torch.from_numpy(pad_rows(self.histories(users))).to(self.args.device)

    def options(self) -> dict:
        """Eager, a batch of 1,024: with the history left out, with half of the catalog allowed, with both."""
        batch = min(1024, max(self.args.batches))
        tokens = self.tokens(batch)
        seen = self.excluded(batch)
        among = torch.from_numpy(self.random.random(self.args.catalog) < 0.5).to(self.args.device)
        options = {"plain": {}, "history removed": {"excluded": seen}, "half allowed": {"allowed_items": among}}
        options["both"] = options["history removed"] | options["half allowed"]
        return {
            name: self.timed(lambda with_=with_: self.searched(tokens, **with_), batch)
            for name, with_ in options.items()
        }

    def recommend(self) -> dict:
        """All users through the recommender, ids to rows, batches as it makes them."""
        recommender = TigerRecommender(self.model, self.tokenizer)
        users = sequences_of(self.histories(self.args.users))
        found = {}
        for size in (256, 1024):

            def run(size=size):
                with torch.autocast(self.args.device, torch.bfloat16):
                    recommender.recommend_rows(users, k=10, num_beams=self.args.beams, batch_size=size)

            found[f"batches of {size}"] = self.timed(run, self.args.users, times=2, warm=1)
        return found

    def trie(self) -> dict:
        """One step of a trie of many items for the beams of 1,024 users."""
        start = time.perf_counter()
        large = SemanticIdTrie.build(random_table(self.args.items, np.random.default_rng(0)))
        built = time.perf_counter() - start
        large = large.to(self.args.device)
        level, batch = large.depth - 2, max(self.args.batches[:3])
        nodes = torch.randint(len(large.tokens[level - 1]), (batch, self.args.beams), device=self.args.device)
        found = {"items": self.args.items, "bytes_an_item": large.nbytes / self.args.items, "build_seconds": built}
        return found | self.timed(lambda: large.follow(level, nodes), batch, times=50)

    def training(self) -> dict:
        """Targets a second, by attention and optimizer, 2,048 a step."""
        lengths = np.minimum(1 + self.random.geometric(0.15, 20 * self.args.targets), 21)
        items = [
            self.random.integers(self.args.catalog, size=max(2, length)) for length in lengths[: self.args.targets]
        ]
        sequences, rows = sequences_of(items), {}
        for attention, shared in (("causal", True), ("full", False)):
            for muon in (False, True):
                model = T5ForConditionalGeneration(t5_config(self.tokenizer, history_attention=attention))
                model.to(self.args.device).train()
                batches = self.batches(TrainingExamples(sequences, shared=shared))
                step = self.stepper(model, muon)
                targets = sum(int(batch["labels"][..., 0].ge(0).sum()) for batch in batches)
                name = f"{attention}, {'Muon' if muon else 'AdamW'}"
                rows[name] = self.timed(
                    lambda step=step, batches=batches: [step(batch) for batch in batches], targets, 3
                )
        return rows

    def batches(self, examples: TrainingExamples) -> list[dict]:
        return first_batches(examples, self.tokenizer, self.args.targets, self.args.device)

    def stepper(self, model, muon: bool, loss_of: Callable = next_item_loss) -> Callable[[dict], None]:
        optimizer = optimizer_of(model, muon)

        def step(batch: dict) -> None:
            with torch.autocast(self.args.device, torch.bfloat16):
                loss = loss_of(model, **batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def rqvae(self) -> dict:
        """Seconds a step of an RQ-VAE over a million vectors of 768, batches of 2,048."""
        vectors = self.random.standard_normal((self.args.vectors, 768), dtype=np.float32)
        size = 256 if self.args.vectors > 2000 else 16
        start = time.perf_counter()
        RQVAE.fit(
            vectors,
            codebook_size=size,
            steps=self.args.steps,
            batch_size=2048,
            device=self.args.device,
            progress=False,
        )
        return {"vectors": self.args.vectors, "steps": self.args.steps, "fit_seconds": time.perf_counter() - start}

    def compiled(self) -> dict:
        """Training through torch.compile, one graph for all lengths: seconds to compile, targets a second."""
        lengths = np.minimum(1 + self.random.geometric(0.15, self.args.targets), 21)
        sequences = sequences_of([self.random.integers(self.args.catalog, size=max(2, n)) for n in lengths])
        model = T5ForConditionalGeneration(t5_config(self.tokenizer)).to(self.args.device).train()
        batches = self.batches(TrainingExamples(sequences))
        compiled = torch.compile(next_item_loss, dynamic=True)
        step = self.stepper(model, True, compiled)
        start = time.perf_counter()
        for batch in batches:
            step(batch)
        self.synchronize()
        seconds = time.perf_counter() - start
        targets = sum(int(batch["labels"][..., 0].ge(0).sum()) for batch in batches)
        return {"compile_seconds": seconds} | self.timed(lambda: [step(batch) for batch in batches], targets, 3)

    def timed(self, run: Callable, count: int, times: int = 10, warm: int = 3) -> dict:
        """Median and 90th percentile of wall milliseconds, and things a second, the device idle before and after."""
        found = []
        for turn in range(times + warm):
            self.synchronize()
            start = time.perf_counter()
            run()
            self.synchronize()
            if turn >= warm:
                found.append(time.perf_counter() - start)
        median, high = np.quantile(found, [0.5, 0.9]).tolist()
        return {"ms": round(1e3 * median, 3), "ms_90": round(1e3 * high, 3), "a_second": round(count / median)}

    def synchronize(self) -> None:
        if self.args.device == "cuda":
            torch.cuda.synchronize()


def sequences_of(lists: list[np.ndarray]) -> Sequences:
    items = np.concatenate(lists).astype(np.int32)
    return Sequences(np.cumsum([0, *map(len, lists)]), items, np.arange(len(items)))


def first_batches(
    examples: TrainingExamples, tokenizer: SemanticIdTokenizer, targets: int, device: str, count: int = 8
) -> list[dict[str, torch.Tensor]]:
    """The first training batches of so many targets, on the device."""
    collate = TrainingCollator(tokenizer)
    return [
        {name: values.to(device) for name, values in collate([examples[i] for i in batch]).items()}
        for batch in islice(LengthBatchSampler(examples, targets), count)
    ]


def optimizer_of(model: T5ForConditionalGeneration, muon: bool) -> MuonAdamW:
    """The optimizer that training has, its matrices stepped by Muon if ``muon``."""
    matrices = [
        p for name, p in model.named_parameters() if p.ndim == 2 and "shared" not in name and "bias" not in name
    ]
    own = {id(p) for p in matrices}
    groups = [{"params": matrices, "muon": muon}, {"params": [p for p in model.parameters() if id(p) not in own]}]
    return MuonAdamW(groups, lr=1e-3, fused=True)


def captured(run: Callable):
    """A CUDA graph of ``run``, and what its replays leave their answer in."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = run()
    return graph, answer


if __name__ == "__main__":
    with friendly_errors():
        main()
