"""Loss and NDCG@10 against examples, parameters and epochs, from runs of ``recipes/paper/gpu.sh sweep.yaml``.

    python recipes/experiments/scaling.py OUT [recipes/results/paper/scaling.json ...] [--out recipes/results/paper]

Reads folders with ``curves.json`` and ``facts.json``, as ``recipes/paper/runs.py`` leaves them, or files that hold the
first as ``runs`` and the second as ``facts``. A run is on an axis if it differs from the run ``base`` in the settings
of that axis alone. Each is taken at its best evaluation. Writes ``scaling.json``, which this script reads again, and
``scaling.png``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

from tiger.cli.common import friendly_errors
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

# Settings in which the runs of an axis differ, and how their line is called.
AXES = {
    "training targets": {"as many epochs": {"train_share"}, "as many steps": {"train_share", "num_train_epochs"}},
    "parameters": {"width": {"d_model"}, "layers": {"num_layers"}},
    "epochs": {"epochs": {"num_train_epochs"}},
}
MEASURES = {"eval_loss": "loss on validation", "eval_ndcg@10": "NDCG@10 on validation"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="+", type=Path, help="folders of runs.py, or files of results")
    parser.add_argument("--out", type=Path, default=Path("recipes/results/paper"), help="folder for table and figure")
    args = parser.parse_args()
    content: dict = {"runs": {}, "facts": {}}
    for place in args.results:
        for part, found in read(place).items():
            content[part] |= found
    lines = {axis: lines_of(content, axis) for axis in AXES}
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out / "scaling.json", json.dumps(content | {"lines": lines}, indent=1) + "\n")
    draw(lines, args.out / "scaling.png")
    for axis, found in lines.items():
        for name, points in found.items():
            for point in points:
                values = "  ".join(f"{point[measure]:.4f}" for measure in MEASURES)
                print(f"{axis}, {name}: {point['x']:>12,.0f}  {values}  {point['run']}")
            if len(points) > 2:
                print(f"{axis}, {name}: loss falls as x to the power of {-exponent(points):.3f}")


def read(place: Path) -> dict[str, dict]:
    """Curves and facts of the runs in a folder or a file.

    Raises:
        DataError: it holds none.
    """
    if place.is_dir():
        files = {"runs": place / "curves.json", "facts": place / "facts.json"}
        if missing := [str(file) for file in files.values() if not file.is_file()]:
            raise DataError(f"{missing[0]} is missing: give a folder that recipes/paper/runs.py wrote.")
        return {part: json.loads(file.read_text()) for part, file in files.items()}
    if not place.is_file():
        raise DataError(f"{place} is missing: give a folder of runs or a file of results.")
    content = json.loads(place.read_text())
    if missing := [part for part in ("runs", "facts") if part not in content]:
        raise DataError(
            f"{place} has no {missing[0]}: results of older runs don't say their settings. Run them again."
        )
    return {part: content[part] for part in ("runs", "facts")}


def lines_of(content: dict, axis: str) -> dict[str, list[dict]]:
    """Points of an axis by line, in the order of x: the base and the runs that differ from it in one way alone.

    Args:
        content: curves as ``runs``, settings and parameters as ``facts``.
        axis: one of ``AXES``.

    Returns:
        For each point ``run``, ``x`` and the measures; lines without a run beside the base are left out.

    Raises:
        DataError: there is no run ``base``.
    """
    facts = content["facts"]
    if "base" not in facts or not evaluated(content["runs"].get("base", [])):
        raise DataError("there is no run `base` with an evaluation to compare the others with.")
    lines = {}
    for line, varied in AXES[axis].items():
        points = []
        for run, fact in facts.items():
            curve, changed = evaluated(content["runs"].get(run, [])), differences(fact, facts["base"])
            if not curve or changed not in (set(), varied) or (run != "base" and not changed):
                continue
            best = max(curve, key=lambda row: row["eval_ndcg@10"])
            x = place_of(axis, curve, fact)
            if x is not None:
                points.append({"run": run, "x": x} | {measure: best[measure] for measure in MEASURES})
        if len(points) > 1:
            lines[line] = sorted(points, key=lambda point: point["x"])
    return lines


def evaluated(curve: list[dict]) -> list[dict]:
    """Rows of a curve that are evaluations."""
    return [row for row in curve if all(measure in row for measure in MEASURES)]


def differences(fact: dict, base: dict) -> set[str]:
    """Names of the settings in which two runs differ, ``set`` among them."""
    ours, theirs = ({"set": one["set"]} | one["settings"] for one in (fact, base))
    return {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}


def place_of(axis: str, curve: list[dict], fact: dict) -> float | None:
    """The place of a run on an axis; None where it is not known."""
    if axis == "parameters":
        return fact.get("parameters")
    if axis == "epochs":
        return fact["settings"].get("num_train_epochs")
    steps = curve[-1]["step"] / curve[-1]["epoch"]  # of an epoch
    return round(steps * int(fact["settings"]["per_device_train_batch_size"]))


def exponent(points: list[dict]) -> float:
    """The power of x that the loss follows, by least squares of the logarithms."""
    x, loss = (np.log([point[name] for point in points]) for name in ("x", "eval_loss"))
    return float(np.polyfit(x, loss, 1)[0])


def draw(lines: dict[str, dict[str, list[dict]]], file: Path) -> None:
    """A column per axis; loss above, NDCG@10 below."""
    figure, axes = plt.subplots(2, len(lines), figsize=(5 * len(lines), 7.5), squeeze=False)
    for column, (axis, found) in enumerate(lines.items()):
        for row, (measure, label) in enumerate(MEASURES.items()):
            panel = axes[row, column]
            for name, points in found.items():
                panel.plot([one["x"] for one in points], [one[measure] for one in points], marker="o", label=name)
            panel.set_xscale("log")
            panel.set_xlabel(axis)
            panel.spines[["top", "right"]].set_visible(False)
            if column == 0:
                panel.set_ylabel(label)
            if found:
                panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    with friendly_errors():
        main()
