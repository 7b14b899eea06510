"""From text to a searchable catalog at a million items: items per CPU-second of each stage, and memory.

    python recipes/speed/indexing.py [--items 1000000]

Texts are drawn word by word from a Zipf distribution, vectors from a mixture of Gaussians. Texts are embedded and
quantized chunk by chunk; vectors lie in a file that is mapped, not read.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmark import SpeedArguments, one_thread, write_result

from tiger.cli.common import friendly_errors
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.quantizers.rqvae import RQVAE
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.arguments import parse_arguments

BARS = {"adding 1,000 items, ms, at most": 50.0, "growth of memory while indexing is streamed, MiB, about": 0}


@dataclass
class IndexingArguments(SpeedArguments):
    items: int = 1_000_000
    dim: int = field(default=768, metadata={"help": "of the vectors that the quantizers are fitted to"})
    chunk: int = field(default=50_000, metadata={"help": "texts embedded and quantized at a time"})
    rqvae_steps: int = field(default=2000, metadata={"help": "steps timed; the fit of a million would take 20,000"})
    new_items: int = 1000
    work_dir: str = field(default="runs/speed", metadata={"help": "for the file of vectors, removed at the end"})


def main() -> None:
    (args,) = parse_arguments([IndexingArguments])
    one_thread()
    seconds: dict[str, float] = {}
    memory: dict[str, list[float]] = {}

    with timed(seconds, "LSA fit, on a tenth of the texts"):
        encoder = LSAEncoder.fit([text for chunk in texts(args.items // 10, args.chunk) for text in chunk], dim=128)
    sample = np.concatenate([encoder.encode(chunk) for chunk in texts(args.items // 10, args.chunk)])
    quantizer = ResidualKMeans.fit(sample, progress=False)
    codes, memory["streamed"] = [], []
    for chunk in texts(args.items, args.chunk):
        with timed(seconds, "text -> LSA vectors"):
            vectors = encoder.encode(chunk)
        with timed(seconds, "LSA vectors -> codes"):
            codes.append(quantizer.encode(vectors))
        memory["streamed"].append(anonymous_mib())
    del sample

    file = Path(args.work_dir) / "vectors.npy"
    vectors = write_vectors(file, args.items, args.dim)
    fitted = {}
    kinds = (("residual k-means", ResidualKMeans, {}), ("RQ-VAE", RQVAE, {"steps": args.rqvae_steps}))
    for name, kind, options in kinds:
        before = anonymous_mib()
        with timed(seconds, f"{name} fit, {args.dim} dimensions"):
            fitted[name] = kind.fit(vectors, progress=True, **options)
        memory[f"{name} fit"] = [before, anonymous_mib()]
        with timed(seconds, f"vectors -> codes, {name}"):
            big_codes = fitted[name].encode(vectors)
    del vectors
    file.unlink()

    ids = [f"item-{index}" for index in range(args.items)]
    with timed(seconds, "codes -> tokenizer, collision tokens"):
        tokenizer = SemanticIdTokenizer(big_codes, ids, 256)
    with timed(seconds, "tokenizer -> trie"):
        trie = SemanticIdTrie.build(tokenizer.token_table)
    with timed(seconds, "ids -> rows, the first lookup"):
        tokenizer.rows(ids[:1])
    adding = []
    random = np.random.default_rng(1)
    for turn in range(args.repeats + 1):
        new_ids = [f"new-{turn}-{index}" for index in range(args.new_items)]
        new_codes = random.integers(0, 256, (args.new_items, 3))
        start, count = time.process_time(), len(tokenizer)
        tokenizer.add_items(new_ids, codes=new_codes)
        trie = trie.insert(tokenizer.token_table[count:])
        adding.append(1e3 * (time.process_time() - start))
    rates = {
        name: round(args.items / value)
        for name, value in seconds.items()
        if "->" in name and not name.startswith("ids")
    }
    flat = memory["streamed"]
    content = {
        "what": f"{args.items} items, CPU time on one thread",
        "cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "items_per_cpu_second": rates,
        "adding_ms": {
            "items": args.new_items,
            "into": args.items,
            "median": round(statistics.median(adding[1:]), 1),
            "all": [round(value, 1) for value in adding[1:]],
        },
        "rqvae_steps_timed": args.rqvae_steps,
        "anonymous_memory_mib": {name: [round(value) for value in values] for name, values in memory.items()},
        "growth_while_streaming_mib": round(flat[-1] - flat[len(flat) // 4]),
        "largest_collision_group": int(tokenizer.semantic_ids[:, -1].max()) + 1,
        "bars": BARS,
    }
    print({name: content[name] for name in ("cpu_seconds", "items_per_cpu_second", "adding_ms")})
    write_result(args, "indexing", content)


class timed:
    """Adds the CPU seconds of a block to a dictionary."""

    def __init__(self, seconds: dict[str, float], name: str):
        self._seconds, self._name = seconds, name

    def __enter__(self):
        self._start = time.process_time()

    def __exit__(self, *_):
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.process_time() - self._start


def texts(count: int, chunk: int, seed: int = 0) -> Iterator[list[str]]:
    """Ten words a text, a chunk at a time."""
    random = np.random.default_rng(seed)
    words = np.array([f"w{index}" for index in range(30_000)])
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        drawn = words[np.minimum(random.zipf(1.3, (size, 10)) - 1, len(words) - 1)]
        yield [" ".join(row) for row in drawn.tolist()]


def write_vectors(file: Path, count: int, dim: int, seed: int = 0) -> np.ndarray:
    """float32 [count, dim] in a file, from 2,000 Gaussians, mapped."""
    random = np.random.default_rng(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    vectors = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(count, dim))
    centers = random.standard_normal((2000, dim), dtype=np.float32)
    for start in range(0, count, 20_000):
        size = min(20_000, count - start)
        noise = random.standard_normal((size, dim), dtype=np.float32)
        vectors[start : start + size] = centers[random.integers(0, len(centers), size)] + 0.7 * noise
    vectors.flush()
    return np.load(file, mmap_mode="r")


def anonymous_mib() -> float:
    """Memory of this process that no file stands behind, MiB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), float("nan"))


if __name__ == "__main__":
    with friendly_errors():
        main()
