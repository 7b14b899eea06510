"""Progress of a training: a bar for the T5, and how long each step of a recipe is going to take."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from tiger.training.catalog_size import softmax_by_size, tokens_by_size
from tiger.training.evaluation import users_to_ask
from tiger.utils import devices

# CPU seconds, measured with the demo shop (recipes/results/speed/demo.json); of encoders, a rough guess.
SECONDS = {
    "per item numbered": 5e-4,
    "per item numbered by an RQ-VAE": 5e-3,
    "per item encoded by a sentence encoder": 2e-2,
    "per target and million multiplications": 2.2e-4,
    "per user, beam and million multiplications": 3.2e-5,
    "per user ranked": 2.5e-3,
    "per user and tree": 8e-6,
    "per user and thousand items, baselines": 1e-4,
}
STARTING = 2.0  # seconds in which a step reads its data and models
ACCELERATED = 10  # how much faster an accelerator trains and decodes: a guess, on the safe side


class TrainingBar(TrainerCallback):
    """A progress bar in place of Trainer's printed dicts; without bars, a line per evaluation.

    Args:
        disable: no bar.
    """

    def __init__(self, disable: bool = False):
        self.disable = disable
        self.bar: tqdm | None = None
        self.said: dict[str, str] = {}

    @classmethod
    def replace_printing(cls, trainer: Trainer, disable: bool) -> TrainingBar:
        """Take Trainer's own bars and dicts away and put this one, to be closed, in their place."""
        for kind in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(kind)
        bar = cls(disable)
        trainer.add_callback(bar)
        return bar

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero and not self.disable:
            # Where nobody looks on, a line now and then is enough.
            every = 0.1 if sys.stderr.isatty() else 30
            steps = {"total": state.max_steps, "initial": state.global_step}
            self.bar = tqdm(**steps, desc="T5", unit="step", mininterval=every)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs: Mapping[str, Any] | None = None, **kwargs) -> None:
        logs = logs or {}
        named = {"loss": logs.get("loss"), "validation ndcg@10": logs.get("eval_ndcg@10")}
        self.said |= {name: f"{float(value):.4g}" for name, value in named.items() if value is not None}
        if self.bar is not None:
            self.bar.set_postfix(self.said, refresh=False)

    def on_evaluate(self, args, state, control, metrics: Mapping[str, Any] | None = None, **kwargs) -> None:
        if self.bar is None and state.is_world_process_zero:
            print(f"epoch {state.epoch:.3g}: " + ", ".join(f"{name} {value}" for name, value in self.said.items()))

    def close(self) -> None:
        """Leave the bar as it is; what is printed next begins a line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class StepClock:
    """Estimates of steps, and what is left of the whole: steps that are done tell how fast this machine is.

    Args:
        estimates: seconds of each step to come, in order, see :func:`estimated_seconds`.
    """

    def __init__(self, estimates: Mapping[str, float]):
        self._left = dict(estimates)
        self._expected = self._taken = 0.0
        self._began = time.monotonic()
        self._running: str | None = None

    def start(self, step: str) -> str:
        """Begin a step; how long it and all that is left is going to take, in words."""
        self._began, self._running = time.monotonic(), step
        own, left = self._left[step] * self.pace, sum(self._left.values()) * self.pace
        return f"about {duration(own)}" + (f", {duration(left)} with what follows" if len(self._left) > 1 else "")

    def done(self) -> None:
        """Note how long the running step took. One that was left alone says nothing of the machine."""
        assert self._running is not None  # it was started
        expected, taken = self._left.pop(self._running), time.monotonic() - self._began
        if taken > expected / 5:
            self._expected, self._taken = self._expected + expected, self._taken + taken

    @property
    def pace(self) -> float:
        """Seconds that pass here where one was expected; 1 until a step has been timed."""
        return min(max(self._taken / self._expected, 0.2), 50.0) if self._expected else 1.0


def duration(seconds: float) -> str:
    """Seconds as ``40 s``, ``3 min`` or ``2.5 h``: no more digits than an estimate has."""
    if seconds <= 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimated_seconds(settings: Mapping[str, Mapping], sizes: Sequence[int], steps: Sequence[str]) -> dict[str, float]:
    """Estimate the steps of a recipe from the size of its data, roughly.

    Args:
        settings: of each step, as dataclasses have them: names and values.
        sizes: numbers of items, of users and of training targets.
        steps: names, in order.
    """
    items, users, targets = sizes
    codes, t5, trees, test = (settings.get(step, {}) for step in ("tokenizer", "retriever", "two_stage", "evaluate"))
    layers = t5.get("num_layers", 4) + (t5.get("num_decoder_layers") or t5.get("num_layers", 4))
    width = 4 * t5.get("num_heads", 6) * t5.get("d_kv", 64) + 2 * t5.get("d_ff", 1024)
    multiplications = layers * t5.get("d_model", 128) * width / 1e6
    tokens = tokens_by_size(t5.get("tokens", "codes"), items)
    summed = items if softmax_by_size(t5.get("output_softmax"), tokens, items) == "items" else 0
    learned = multiplications + summed * t5.get("d_model", 128) / 1e6
    epochs = max(t5.get("num_train_epochs", 3), t5.get("min_steps", 0) * t5.get("batch", 512) / max(targets, 1))
    per_beam = SECONDS["per user, beam and million multiplications"]
    fast = 1 if devices.is_host(devices.fastest()) else ACCELERATED

    def decoded(count: int | None, beams: int) -> float:
        return min(users, count or users) * beams * multiplications * per_beam / fast

    fitting = SECONDS["per item numbered" + (" by an RQ-VAE" if codes.get("quantizer") == "rqvae" else "")]
    if codes.get("encoder") != "lsa" and not codes.get("embeddings"):
        fitting += SECONDS["per item encoded by a sentence encoder"] / fast
    learning = min(users, trees.get("users", 50_000))
    asked = min(users, test.get("users") or users_to_ask(users, items))
    step_seconds = {
        "tokenizer": items * fitting,
        "retriever": epochs * targets * learned * SECONDS["per target and million multiplications"] / fast
        + epochs * decoded(t5.get("eval_users"), t5.get("eval_beams", 20)),
        "two_stage": decoded(learning, trees.get("num_beams", 50))
        + learning * SECONDS["per user ranked"]
        + learning * trees.get("num_seeds", 1) * trees.get("max_trees", 600) * SECONDS["per user and tree"],
        "evaluate": decoded(asked, test.get("num_beams", 50))
        + asked * (SECONDS["per user ranked"] + items / 1000 * SECONDS["per user and thousand items, baselines"]),
    }
    return {step: STARTING + step_seconds.get(step, 0.0) for step in steps}
