"""The same on a GPU: search eager and as CUDA graphs, exclusion, filters, the service, ten million items, training.

    python recipes/speed/gpu.py [--seconds 400] [--sections search graphs ...]
    python recipes/speed/gpu.py --device cpu --small true    # that it runs

The model is made, not trained: the paper's T5 with random weights over random codes, which costs what a trained one
does. Each section writes its results when it is done, and is stopped after ``--section_seconds``, so that none costs
another its own; one that leaves the GPU unusable is followed by a fresh process. Beside its figures a section has what
was estimated for an H100 before anything was measured. Where there is no GPU, the result says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from benchmark import write_result
from catalogue import random_table
from gpu_sections import GPUArguments, run_sections
from transformers import T5ForConditionalGeneration

from tiger.cli.common import friendly_errors
from tiger.data.sequences import Sequences, pad_rows
from tiger.quantizers.rqvae import RQVAE
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import t5_config
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import LengthBatchSampler, TrainingExamples
from tiger.retriever.model import next_item_loss
from tiger.retriever.optimizer import MuonAdamW
from tiger.retriever.search_graphs import (
    GraphShapes,
    SearchGraphs,
    cuda_recorder,
    repeating_recorder,
    use_graphs,
)
from tiger.retriever.training_graph import TrainingGraphs
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.arguments import parse_arguments


def main() -> None:
    (args,) = parse_arguments([GPUArguments])
    if args.device == "cuda" and not torch.cuda.is_available():
        write_result(args, "gpu", {"could_not_run": ["no GPU on this machine"]})
        return
    if args.small:
        args.shrink()
    what = f"the paper's T5 with random weights, {args.catalog} items, {args.beams} beams, bfloat16"
    run_sections(args, Bench(args), what)


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

    def searched(self, tokens: torch.Tensor, trie: SemanticIdTrie | None = None, **options):
        with torch.autocast(self.args.device, torch.bfloat16):
            return beam_search(self.model, trie or self.catalog_trie, tokens, self.args.beams, **options)

    def search(self) -> dict:
        """Eager: milliseconds of a batch and users a second, by batch size."""
        rows = {}
        for batch in self.args.batches:
            tokens = self.tokens(batch)
            rows[str(batch)] = self.timed(lambda tokens=tokens: self.searched(tokens), batch)
        return rows

    def graphs(self) -> dict:
        """The same as the library records it, a graph for each batch size: equal to eager, or an error."""
        graphs, rows = self.recorded(tuple(self.args.batches)), {}
        for batch in self.args.batches:
            tokens = self.tokens(batch)

            def replayed(tokens=tokens):
                with torch.autocast(self.args.device, torch.bfloat16):
                    return graphs.search(self.catalog_trie, tokens, self.args.beams, self.args.beams, None)

            found = replayed()
            if found is None:
                raise AssertionError(f"batch {batch}: no graph answers")
            # Over the graph's own trie: bfloat16 makes ties, which fall otherwise where nodes have room for more.
            same = float((found.rows == self.searched(tokens, graphs.trie).rows).float().mean())
            if same < 0.999:
                raise AssertionError(f"batch {batch}: graph and eager agree on {same:.4f} of the answers")
            plain = float((found.rows == self.searched(tokens).rows).float().mean())
            figures = {"same_rows": same, "same_rows_of_the_plain_trie": round(plain, 4)}
            rows[str(batch)] = self.timed(replayed, batch) | figures
        return rows | ({} if self.args.device == "cuda" else {"recorder": "none here: each replay searches again"})

    def recorded(self, users: tuple[int, ...], items: tuple[int, ...] = (20,)) -> SearchGraphs:
        """Graphs of the model; on a CPU, what stands in for them."""
        shapes = GraphShapes(users, items, self.args.beams)
        recorder = cuda_recorder(self.model.device) if self.args.device == "cuda" else repeating_recorder()
        graphs = SearchGraphs(self.model, self.catalog_trie, shapes, True, recorder)
        graphs.record_all()
        return graphs

    def options(self) -> dict:
        """Eager, a batch of 1,024: with the history left out, with half of the catalog allowed, with both."""
        batch = min(1024, max(self.args.batches))
        tokens = self.tokens(batch)
        seen = torch.from_numpy(pad_rows(self.histories(batch))).to(self.args.device)
        allowed = torch.from_numpy(self.random.random(self.args.catalog) < 0.5).to(self.args.device)
        options = {"plain": {}, "history removed": {"excluded": seen}, "half allowed": {"allowed_items": allowed}}
        options["both"] = options["history removed"] | options["half allowed"]
        return {
            name: self.timed(lambda with_=with_: self.searched(tokens, **with_), batch)
            for name, with_ in options.items()
        }

    def recommend(self) -> dict:
        """All users through the recommender, ids to rows, by batch size; the last time with graphs."""
        recommender = TigerRecommender(self.model, self.tokenizer)
        users, found = sequences_of(self.histories(self.args.users)), {}

        def run(size: int) -> None:
            recommender.recommend_rows(users, k=10, num_beams=self.args.beams, batch_size=size, bf16=True)

        for size in (256, 1024):
            found[f"batches of {size}"] = self.timed(lambda size=size: run(size), self.args.users, times=2, warm=1)
        use_graphs(self.model, self.recorded((min(1024, self.args.users),), (5, 10, 20)))
        try:
            found["batches of 1024, graphs"] = self.timed(lambda: run(1024), self.args.users, times=2, warm=1)
        finally:
            use_graphs(self.model, None)
        return found

    def service(self) -> dict:
        """The service in a process of its own: requests a second and milliseconds, by clients."""
        from service import load, service  # what it needs is an extra

        histories = [[f"item {row}" for row in history] for history in self.histories(self.args.requests)]
        found: dict = {}
        with tempfile.TemporaryDirectory() as folder:
            model = str(Path(folder, "model"))
            TigerRecommender(self.model, self.tokenizer).save_pretrained(model)
            with service(model, "--device", self.args.device, "--read_only") as (_, port):
                for clients in (1, 64):
                    some = histories[: max(2, len(histories) // (8 if clients == 1 else 1))]
                    load(port, clients, some[:64], self.args.beams, folder)
                    done = load(port, clients, some, self.args.beams, folder)
                    times = np.quantile(done["milliseconds"], [0.5, 0.99]).tolist()
                    found[f"{clients} clients"] = {
                        "ms": round(times[0], 2),
                        "ms_99": round(times[1], 2),
                        "a_second": round(len(some) / done["wall_seconds"]),
                        "errors": sum(status != 200 for status in done["statuses"]),
                    }
        return found

    def prefixes(self) -> dict:
        """Search with a token for each prefix and the softmax over children, as the default recipe has them."""
        tokenizer = self.tokenizer.with_tokens("prefixes")
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(t5_config(tokenizer)).eval().to(self.args.device)
        trie, rows = SemanticIdTrie.build(tokenizer.token_table).to(self.args.device), {}
        for batch in self.args.batches[:3]:
            items = pad_rows([*self.histories(batch), np.zeros(20, dtype=np.int64)])[:-1]
            tokens = torch.from_numpy(tokenizer.encode_history(items)).to(self.args.device)

            def run(tokens=tokens):
                with torch.autocast(self.args.device, torch.bfloat16):
                    beam_search(model, trie, tokens, self.args.beams)

            rows[str(batch)] = self.timed(run, batch)
        return rows

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
        """Targets a second, by attention and optimizer, 2,048 a step; the last also as CUDA graphs."""
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
            if self.args.device == "cuda":
                step = self.graph_stepper(model)
                rows[f"{attention}, Muon, graphs"] = self.timed(
                    lambda step=step, batches=batches: [step(batch) for batch in batches], targets, 3
                )
        return rows

    def batches(self, examples: TrainingExamples) -> list[dict]:
        return first_batches(
            examples, self.tokenizer, self.args.targets, self.args.device, 1 if self.args.small else 8
        )

    def stepper(self, model, muon: bool, loss_of: Callable = next_item_loss) -> Callable[[dict], None]:
        optimizer = optimizer_of(model, muon)

        def step(batch: dict) -> None:
            with torch.autocast(self.args.device, torch.bfloat16):
                loss = loss_of(model, **batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def graph_stepper(self, model) -> Callable[[dict], None]:
        optimizer = optimizer_of(model, True)

        def loss_of(**batch) -> torch.Tensor:
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                return next_item_loss(model, **batch)

        graphs = TrainingGraphs(model, loss_of)

        def step(batch: dict) -> None:
            graphs.step(batch)
            optimizer.step()

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
        # What a compiler makes of it takes minutes on a CPU; that it can be traced is seen without.
        backend = "eager" if self.args.small else "inductor"
        compiled = torch.compile(next_item_loss, dynamic=True, backend=backend)
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
        found: list[float] = []
        if self.args.small:
            times, warm = 1, 1
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


if __name__ == "__main__":
    with friendly_errors():
        main()
