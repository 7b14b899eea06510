"""Decoding and the trie from ten thousand to ten million items: nothing should grow but memory.

python recipes/speed/catalogue.py [--sizes 10000 100000 1000000 10000000]
"""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from benchmark import SpeedArguments, interleaved, one_thread, write_result
from transformers import T5Config, T5ForConditionalGeneration, set_seed

from tiger.cli.common import friendly_errors
from tiger.retriever.beam_search import beam_search
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.arguments import parse_arguments

LEVELS, CODEBOOK_SIZE = 4, 256
BARS = {
    "time a step, 10^7 against 10^5 items, at most": 1.15,
    "million items a second of build, at least": 1.0,
    "bytes an item, at most": 40,
    "peak bytes of build over bytes of the trie, at most": 3.0,
}


@dataclass
class CatalogueArguments(SpeedArguments):
    sizes: list[int] = field(default_factory=lambda: [10**4, 10**5, 10**6, 10**7])
    batch: int = 16
    beams: int = 50
    history: int = field(default=8, metadata={"help": "items of each history"})


def main() -> None:
    (args,) = parse_arguments([CatalogueArguments])
    one_thread()
    set_seed(0)
    config = T5Config(
        vocab_size=1 + LEVELS * CODEBOOK_SIZE,
        d_model=128,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=6,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    model = T5ForConditionalGeneration(config).eval()
    random = np.random.default_rng(0)
    tries, rows = {}, []
    for size in args.sizes:
        table = random_table(size, random)
        tries[size], row = build(args, table)
        rows.append(row)
        print(row)
    histories = torch.from_numpy(random_table(args.batch * args.history, random)).long().view(args.batch, -1)
    timed = interleaved(
        {size: lambda trie=trie: beam_search(model, trie, histories, args.beams) for size, trie in tries.items()},
        args.repeats * 3,
        label="decoding",
    )
    nodes = {size: steps_of_the_trie(trie, args) for size, trie in tries.items()}
    for row in rows:
        size = row["items"]
        row["decode_ms_a_step"] = round(1e3 * timed[size]["cpu_seconds"] / LEVELS, 3)
        row["trie_ms_a_step"] = round(1e3 * nodes[size], 3)
        row["widest"] = tries[size].widths
    steps = {row["items"]: row["decode_ms_a_step"] for row in rows}
    measured = {
        "million items a second of build, least": min(row["build_million_a_second"] for row in rows),
        "bytes an item, most": max(row["bytes_an_item"] for row in rows),
        "peak bytes of build over bytes of the trie, most": max(row["peak_over_size"] for row in rows),
    }
    if 10**5 in steps:
        measured["time a step, largest against 10^5 items"] = round(steps[max(steps)] / steps[10**5], 3)
    print(measured)
    write_result(
        args,
        "catalogue",
        {
            "what": f"random tuples of {LEVELS} codes of {CODEBOOK_SIZE}; CPU time on one thread, "
            f"batch {args.batch}, {args.beams} beams",
            "rows": rows,
            "measured": measured,
            "bars": BARS,
        },
    )


def random_table(size: int, random: np.random.Generator) -> np.ndarray:
    """int32 [size, 4]: distinct random tuples, as tokens, in random order."""
    bits = 8 * LEVELS
    keys = np.unique(random.integers(0, 2**bits, int(size * 1.01) + 100, dtype=np.uint64))
    keys = random.permutation(keys)[:size]
    table = np.empty((size, LEVELS), dtype=np.int32)
    for level in range(LEVELS):
        shift = np.uint64(8 * (LEVELS - 1 - level))
        table[:, level] = 1 + CODEBOOK_SIZE * level + ((keys >> shift) & np.uint64(255)).astype(np.int32)
    return table


def build(args: CatalogueArguments, table: np.ndarray) -> tuple[SemanticIdTrie, dict]:
    """The trie, and what it cost to build, save and map."""
    seconds = []
    for _ in range(args.repeats):
        start = time.process_time()
        trie = SemanticIdTrie.build(table)
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    SemanticIdTrie.build(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trie.safetensors"
        trie.save(file)
        start = time.perf_counter()
        SemanticIdTrie.load(file)
        load = time.perf_counter() - start
    middle = statistics.median(seconds)
    return trie, {
        "items": len(table),
        "build_seconds": round(middle, 4),
        "build_million_a_second": round(len(table) / middle / 1e6, 2),
        "bytes_an_item": round(trie.nbytes / len(table), 1),
        "peak_over_size": round(peak / trie.nbytes, 2),
        "map_ms": round(1e3 * load, 2),
    }


def steps_of_the_trie(trie: SemanticIdTrie, args: CatalogueArguments) -> float:
    """CPU seconds a step of following the trie alone, for all beams of a batch, mean over levels below the first."""
    random = torch.Generator().manual_seed(0)
    total = 0.0
    for level in range(1, trie.depth):
        nodes = torch.randint(len(trie.tokens[level - 1]), (args.batch, args.beams), generator=random)
        timed = interleaved({"follow": lambda: trie.follow(level, nodes)}, args.repeats)
        total += timed["follow"]["cpu_seconds"]
    return total / (trie.depth - 1)


if __name__ == "__main__":
    with friendly_errors():
        main()
