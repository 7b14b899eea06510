"""CPU time of decoding one user, beside cornac's TIGER and transformers' ``generate``, all with the same weights.

python recipes/speed/decoding.py [--dataset datasets/beauty] [--repeats 5]
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from benchmark import SpeedArguments, histories_of, interleaved, load_or_make, one_thread, write_result
from peers import Cornac, TrieProcessor, hf_generate, missing, prefix_function
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from tiger.cli.common import friendly_errors
from tiger.data.sequences import pad_rows
from tiger.retriever.beam_search import beam_search
from tiger.retriever.inference_decoder import PackedDecoder
from tiger.training.arguments import parse_arguments

BFLOAT16 = ", bfloat16"
FLOOR = "tiger's products alone"
PRODUCTS = (
    *(torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default),
    *(torch.ops.aten.linear.default, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default),
)
BARS = {
    "batch 1, 50 beams, against cornac": 4.0,
    "batch 16, 20 beams, against cornac": 8.0,
    "batch 256, 20 beams, against cornac": 8.0,
    "against the better of HF, least of all": 4.0,
}


@dataclass
class DecodingArguments(SpeedArguments):
    beams: list[int] = field(default_factory=lambda: [10, 20, 50])
    batches: list[int] = field(default_factory=lambda: [1, 16, 256])
    cornac_users: int = field(default=8, metadata={"help": "users a timed run of cornac decodes, one after another"})
    hf_users: int = field(default=64, metadata={"help": "largest batch that generate is timed with"})
    latency_users: int = field(default=300, metadata={"help": "single users timed for p50 and p99"})


def main() -> None:
    (args,) = parse_arguments([DecodingArguments])
    one_thread()
    recommender, data = load_or_make(args)
    model, tokenizer, trie = recommender.model, recommender.tokenizer, recommender.trie
    histories = histories_of(data, max(*args.batches, args.latency_users))
    histories.sort(key=len)
    cornac = None if missing("cornac") else Cornac(model.config, tokenizer)
    if cornac:
        cornac.copy_weights(model)
    table = tokenizer.token_table
    processor, function = TrieProcessor(table), prefix_function(table)

    def encode(batch):
        return torch.from_numpy(tokenizer.encode(pad_rows(batch))).flatten(1)

    same = same_answers(
        model, trie, tokenizer, cornac, processor, function, histories[:: max(1, len(histories) // 32)]
    )
    print(same)
    constraints = {"logits processor": {"processor": processor}, "prefix function": {"function": function}}
    half = copy.deepcopy(model).bfloat16()
    cells = []
    for batch in args.batches:
        # Spread over lengths, so that a batch of 16 is no luckier than one of 256; ours takes them by length.
        users = histories[len(histories) // (2 * batch) :: max(1, len(histories) // batch)][:batch]
        for beams in args.beams:
            tokens = encode(users)
            runs = {"tiger": lambda: beam_search(model, trie, tokens, beams)}
            sizes = {"tiger": len(users)}
            if cornac:
                some = users[:: max(1, len(users) // args.cornac_users)][: args.cornac_users]
                inputs = [cornac.inputs([user]) for user in some]
                runs["cornac"] = lambda: [cornac.beams(*one, beams) for one in inputs]
                sizes["cornac"] = len(some)
            part = users if len(users) <= args.hf_users else users[:: len(users) // args.hf_users][: args.hf_users]
            hf_tokens = encode(part)
            candidates = {name: in_type(run, False) for name, run in runs.items()}
            candidates |= {name + BFLOAT16: in_type(run, True) for name, run in runs.items()}
            # Both hold their weights in bfloat16: transformers by ``model.bfloat16()``, its quicker way.
            for kind, options in constraints.items():
                for own, suffix in ((model, ""), (half, BFLOAT16)):
                    run = partial(hf_generate, own, hf_tokens, beams, trie.depth, **options)
                    candidates[f"generate, {kind}{suffix}"] = in_type(run, False)
                sizes[f"generate, {kind}"] = len(part)
            for suffix, run in (("", candidates["tiger"]), (BFLOAT16, candidates["tiger" + BFLOAT16])):
                with torch.no_grad(), Products() as products:
                    run()
                candidates[FLOOR + suffix] = in_type(products.again, False)
            sizes[FLOOR] = len(users)
            # The context around all keeps cornac's weights in bfloat16, as one around a server's life would.
            with torch.autocast("cpu", torch.bfloat16):
                timed = interleaved(candidates, args.repeats, label=f"batch {batch}, {beams} beams")
            sizes |= {name + BFLOAT16: size for name, size in sizes.items()}
            per_user = {name: 1e3 * t["cpu_seconds"] / sizes[name] for name, t in timed.items()}
            cells.append(
                {
                    "batch": batch,
                    "beams": beams,
                    "cpu_ms_per_user": {name: round(value, 3) for name, value in per_user.items()},
                    "users_timed": sizes,
                    "cpu_seconds": {name: t["cpu_all"] for name, t in timed.items()},
                }
            )
            print(f"batch {batch:>3}, {beams:>2} beams: " + ", ".join(f"{n} {v:.1f} ms" for n, v in per_user.items()))
    content = {
        "what": "CPU milliseconds a user, one thread, medians of interleaved runs",
        "items": len(tokenizer),
        "same_answers": same,
        "cells": cells,
        "ratios": ratios(cells),
        "bars": BARS,
        "latency_ms": latency(args, model, trie, encode, histories),
        "users_per_second": round(max(1e3 / cell["cpu_ms_per_user"]["tiger" + BFLOAT16] for cell in cells), 1),
        "could_not_run": [reason for reason in [missing("cornac")] if reason],
    }
    write_result(args, "decoding", content)


class Products(TorchDispatchMode):
    """Takes down every matrix product, to be done again without all that stands between them: the floor."""

    def __init__(self):
        super().__init__()
        self._calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in PRODUCTS:
            self._calls.append((function, args))
        return function(*args, **(kwargs or {}))

    def again(self) -> None:
        for function, args in self._calls:
            function(*args)


def in_type(run, bfloat16: bool):
    def typed():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return run()

    return typed


def same_answers(model, trie, tokenizer, cornac, processor, function, histories, beams: int = 20) -> dict:
    """All find the same items with the same scores, or this raises.

    cornac normalizes each step over its level's tokens, T5 over the whole vocabulary: against cornac, ours is made to
    do the former too.
    """
    gaps = {"generate": 0.0} | ({"cornac": 0.0} if cornac else {})

    def check(peer: str, rows: list[int], scores: np.ndarray, ours) -> None:
        gap = float(np.abs(np.sort(scores) - np.sort(ours.scores[0].numpy())).max())
        gaps[peer] = max(gaps[peer], gap)
        if gap > 1e-3 or len(set(rows) ^ set(ours.rows[0].tolist())) > 2:  # a tie at the last place may go either way
            raise AssertionError(f"{peer} and beam_search differ by {gap}: {sorted(rows)}, {ours.rows.sort().values}")

    for history in tqdm(histories, desc="the same answers?", unit="user", leave=False):
        tokens = torch.from_numpy(tokenizer.encode(history)).flatten().unsqueeze(0)
        ours = beam_search(model, trie, tokens, beams)
        for options in ({"processor": processor}, {"function": function}):
            found, scores = hf_generate(model, tokens, beams, trie.depth, **options)
            check("generate", tokenizer.decode(found[0].numpy()).tolist(), scores[0].numpy(), ours)
        if cornac:
            with patch.object(PackedDecoder, "step", level_normalized(PackedDecoder.step, tokenizer)):
                ours = beam_search(model, trie, tokens, beams)
            check("cornac", *cornac.beams(*cornac.inputs([history]), beams), ours)
    return {"users": len(histories), "beams": beams, "largest_score_gap": gaps}


def level_normalized(step, tokenizer):
    """``PackedDecoder.step`` with probabilities among a level's tokens."""
    bounds = [*tokenizer.vocabulary.starts.tolist(), tokenizer.vocab_size]

    def wrapped(self, tokens, choices, allowed, trie=None):
        level = self.written
        own = torch.arange(bounds[level], bounds[level + 1])
        log_probs = step(self, tokens, own, torch.ones(*tokens.shape, len(own), dtype=torch.bool))
        return log_probs.log_softmax(-1).gather(-1, (choices - bounds[level]).expand(allowed.shape))

    return wrapped


def ratios(cells: list[dict]) -> dict[str, float]:
    """CPU time of the peers as a multiple of ours, each numeric type against the same one."""
    found: dict[str, float] = {}
    for cell in cells:
        times, where = cell["cpu_ms_per_user"], f"batch {cell['batch']}, {cell['beams']} beams"
        for suffix in ("", BFLOAT16):
            hf = min(times[f"generate, {kind}{suffix}"] for kind in ("logits processor", "prefix function"))
            found[f"{where}, against the better of HF{suffix}"] = round(hf / times["tiger" + suffix], 2)
            found[f"{where}, better of HF over {FLOOR}{suffix}"] = round(hf / times[FLOOR + suffix], 2)
            if "cornac" in times:
                found[f"{where}, against cornac{suffix}"] = round(
                    times["cornac" + suffix] / times["tiger" + suffix], 2
                )
    for suffix in ("", BFLOAT16):
        found["against the better of HF, least of all" + suffix] = min(
            value for name, value in found.items() if name.endswith("of HF" + suffix)
        )
    return found


def latency(args: DecodingArguments, model, trie, encode, histories) -> dict[str, float]:
    """Wall milliseconds of single users at the widest beam."""
    beams, seconds = max(args.beams), []
    for history in histories[: args.latency_users]:
        tokens = encode([history])
        start = time.perf_counter()
        beam_search(model, trie, tokens, beams)
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.quantile(seconds[len(seconds) // 10 :], [0.5, 0.99]) * 1e3
    return {"beams": beams, "users": len(seconds), "p50": round(p50, 2), "p99": round(p99, 2)}


if __name__ == "__main__":
    with friendly_errors():
        main()
