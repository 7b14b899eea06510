"""Validation NDCG@10 of the paper's recipe by epoch, one panel per dataset: ``python recipes/paper/report.py``.

Reads what ``recipes/paper/runs.py`` left (``long.json``, ``longer.json`` and ``whole.json``) and draws ``curves.png``
beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SETS = ("beauty", "sports", "toys")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "recipes/results/paper")
    runs = {}
    for name in ("long", "longer", "whole"):
        runs |= json.loads((folder / f"{name}.json").read_text())["runs"]
    figure, axes = plt.subplots(1, len(SETS), figsize=(15, 4.5))
    for axis, name in zip(axes, SETS):
        for run, curve in runs.items():
            if run.startswith(name) and curve:
                label = (
                    run.removeprefix(f"{name}-")
                    .replace("dropout2", "dropout .2")
                    .replace("dropout05", "dropout .05")
                    .replace("random", "random codes")
                    .replace("-", ", ")
                )
                epochs = label.partition(",")[0]
                label = label.replace(epochs, f"{epochs} epochs", 1)
                axis.plot([row["epoch"] for row in curve], [row["eval_ndcg@10"] for row in curve], label=label)
        axis.set_title(name.capitalize(), loc="left", fontsize=11)
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    axes[0].set_ylabel("NDCG@10 on validation, history removed")
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=110)
    print(folder / "curves.png")


if __name__ == "__main__":
    main()
