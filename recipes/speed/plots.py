"""Plots of what the speed benchmarks found: ``python recipes/speed/plots.py [results_dir]`` writes ``speed.png``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

COLOURS = {"tiger": "#d1495b", "cornac": "#30638e", "torch-rechub": "#7a9e7e", "generate": "#edae49"}


def colour(name: str) -> str:
    return next((value for start, value in COLOURS.items() if name.startswith(start)), "#888888")


def read(folder: Path, name: str) -> dict | None:
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def bars(axis, values: dict[str, float], unit: str, title: str) -> None:
    """Horizontal bars on a logarithmic axis, with their values."""
    names = sorted(values, key=values.get)
    axis.barh(names, [values[name] for name in names], color=[colour(name) for name in names])
    axis.set_xscale("log")
    axis.set_xlim(right=max(values.values()) * 4)
    for place, name in enumerate(names):
        axis.text(values[name] * 1.08, place, f"{values[name]:,.3g}", va="center", fontsize=8)
    axis.set_xlabel(unit)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "recipes/results/speed")
    figure, axes = plt.subplots(2, 3, figsize=(16, 8))
    if decoding := read(folder, "decoding"):
        cells = {(cell["batch"], cell["beams"]): cell["cpu_ms_per_user"] for cell in decoding["cells"]}
        one = min(cells, key=lambda key: (key[0], -key[1]))
        many = max(cells, key=lambda key: (key[0], key[1] == 20))
        for axis, key in zip(axes[0], (one, many)):
            bars(axis, cells[key], "CPU ms a user (less is better)", f"Decoding, batch {key[0]}, {key[1]} beams")
    if training := read(folder, "training"):
        rates = training["examples_per_cpu_second"]
        bars(axes[0][2], rates, "examples a CPU-second (more is better)", "Training")
        shares = training["profile_share_of_cpu_time"]
        names = list(shares)[::-1]
        axes[1][0].barh(names, [100 * shares[name] for name in names], color=COLOURS["tiger"])
        axes[1][0].set_xlabel("% of CPU time")
        axes[1][0].set_title("Where a training step's time goes", fontsize=10, loc="left")
    if catalogue := read(folder, "catalogue"):
        rows = catalogue["rows"]
        sizes = [row["items"] for row in rows]
        axes[1][1].plot(sizes, [row["decode_ms_a_step"] for row in rows], "o-", color=COLOURS["tiger"], label="step")
        axes[1][1].plot(
            sizes, [row["trie_ms_a_step"] for row in rows], "o-", color=COLOURS["cornac"], label="its trie"
        )
        axes[1][1].set_xscale("log")
        axes[1][1].set_ylim(bottom=0)
        axes[1][1].set_xlabel("items in the catalogue")
        axes[1][1].set_ylabel("CPU ms")
        axes[1][1].legend(frameon=False)
        axes[1][1].set_title("A decoding step against the catalogue's size", fontsize=10, loc="left")
    if indexing := read(folder, "indexing"):
        bars(axes[1][2], indexing["items_per_cpu_second"], "items a CPU-second", "Indexing a million items")
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / "speed.png", dpi=110)
    print(folder / "speed.png")


if __name__ == "__main__":
    main()
