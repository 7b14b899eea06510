"""Results of the speed benchmarks as a page and a plot: ``python recipes/speed/report.py [results_dir]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from tiger.utils.markdown import markdown_table  # noqa: E402

AGAINST_HF, FLOOR = "against the better of HF", "better of HF over tiger's products alone"
COLORS = {"tiger": "#d1495b", "cornac": "#30638e", "torch-rechub": "#7a9e7e", "generate": "#edae49"}


def color(name: str) -> str:
    return next((value for start, value in COLORS.items() if name.startswith(start)), "#888888")


def read(folder: Path, name: str) -> dict | None:
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def bars(axis, values: dict[str, float], unit: str, title: str) -> None:
    """Horizontal bars from zero, with their values."""
    names = sorted(values, key=values.get)
    axis.barh(names, [values[name] for name in names], color=[color(name) for name in names])
    axis.set_xlim(0, max(values.values()) * 1.25)
    axis.set_xticks([0])
    for place, name in enumerate(names):
        text = f"{values[name]:,.0f}" if values[name] >= 100 else f"{values[name]:.1f}"
        axis.text(values[name] + axis.get_xlim()[1] * 0.01, place, text, va="center", fontsize=8)
    axis.set_xlabel(unit)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def page(folder: Path) -> str:
    """``README.md`` of the results: what was measured beside its bar."""
    found = {name: read(folder, name) for name in ("decoding", "training", "catalogue", "indexing", "evaluation")}
    found |= {
        name: read(folder, name)
        for name in ("sharing", "ranker", "service", "gpu", "load", "growth", "scale", "memory")
    }
    parts = ["# Speed", "", "![CPU time, ours and others'](speed.png)"]

    def section(title: str, name: str, lines: list[str]) -> None:
        result = found[name]
        parts.extend(["", f"## {title}", "", f"{result['what']}. {result['hardware']}; `{result['command']}`", ""])
        parts.extend(lines)
        parts.extend(f"\nCould not run: {reason}." for reason in result.get("could_not_run", []))

    if decoding := found["decoding"]:
        cells, ratios = decoding["cells"], decoding["ratios"]
        names = [name for name in cells[0]["cpu_ms_per_user"]]
        pairs = [(peer, suffix) for suffix in ("", ", bfloat16") for peer in ("the better of HF", "cornac")]
        heads = ["batch", "beams", *names, *(f"{peer} / ours{suffix}" for peer, suffix in pairs)]
        rows = []
        for cell in cells:
            where = f"batch {cell['batch']}, {cell['beams']} beams"
            values = [f"{cell['cpu_ms_per_user'][name]:.1f}" for name in names]
            peers = [ratios.get(f"{where}, against {peer}{suffix}", float("nan")) for peer, suffix in pairs]
            rows.append([cell["batch"], cell["beams"], *values, *(f"{peer:.1f}" for peer in peers)])
        gaps = decoding["same_answers"]["largest_score_gap"]
        latency = decoding["latency_ms"]
        lines = [
            markdown_table(heads, rows, left=0),
            "",
            f"Milliseconds a user. All found the same items first (largest gap of scores {max(gaps.values()):.0e}). "
            f"One user at {latency['beams']} beams: p50 {latency['p50']} ms, p99 {latency['p99']} ms; at the best "
            f"batch {decoding['users_per_second']} users a second on one core.",
            "",
            *floor(cells, ratios),
        ]
        section("Decoding", "decoding", lines)
    if training := found["training"]:
        rates = [[name, f"{rate:,.1f}"] for name, rate in training["examples_per_cpu_second"].items()]
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in training["profile_share_of_cpu_time"].items())
        lines = [
            markdown_table(["", "examples a CPU-second"], rates),
            "",
            f"{training['tokens_per_second']:,} tokens a second; {training['model_flops_utilisation']:.0%} of "
            f"the {training['matrix_product_peak_gflops']} GFLOP/s that a large bfloat16 product reaches here, "
            f"counting the model's products alone; {training['padding_share']:.1%} of the tokens pad. "
            f"Where the time goes: {shares}.",
        ]
        section("Training", "training", lines)
    if sharing := found["sharing"]:
        names = list(sharing["ways"]["causal"])
        rows = [[way, *(values[name] for name in names)] for way, values in sharing["ways"].items()]
        gaps = sharing["causal minus full, with 95% of bootstraps over users"]
        told = (f"{name} {gap['mean']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})" for name, gap in gaps.items())
        lines = [
            markdown_table(["", *names], rows),
            "",
            "`causal` encodes a user once for all targets, `full` once a target; seconds are wall time beside other "
            f"work. Difference: {'; '.join(told)}.",
        ]
        section("Sharing the encoder's work", "sharing", lines)
    if catalogue := found["catalogue"]:
        names = [name for name in catalogue["rows"][0] if name != "widest"]
        rows = [[f"{cell[name]:,}" for name in names] for cell in catalogue["rows"]]
        heads = [name.replace("_", " ") for name in names]
        section("Size of the catalog", "catalogue", [markdown_table(heads, rows, left=0)])
    if indexing := found["indexing"]:
        rows = [[name, f"{value:,.2f}"] for name, value in indexing["cpu_seconds"].items()]
        adding = indexing["adding_ms"]
        lines = [
            markdown_table(["", "CPU seconds"], rows),
            "",
            f"{indexing['rqvae_steps_timed']:,} steps of the RQ-VAE were timed; a fit of a million vectors takes "
            f"20,000. {whole_fit(indexing)}"
            f"Adding {adding['items']:,} items to {adding['into']:,}: {adding['median']} ms. "
            f"While texts stream through, memory grows by {indexing['growth_while_streaming_mib']} MiB.",
        ]
        section("Indexing", "indexing", lines)
    if growth := found["growth"]:
        section("Growth", "growth", growth_lines(growth))
    if (gpu := found["gpu"]) and "search" in gpu:
        section("GPU", "gpu", gpu_lines(gpu))
        found["gpu"] = None
    if found_load := found["load"]:
        section("Service under offered load", "load", load_lines(found_load))
    rest = ("Evaluation", "Memory", "Ranker", "Service", "GPU", "Many machines")
    for title, name in zip(rest, ("evaluation", "memory", "ranker", "service", "gpu", "scale")):
        if result := found[name]:
            result.setdefault("what", "not measured")
            skip = ("benchmark", "dataset", "what", "bars", "hardware", "versions", "command", "could_not_run", "runs")
            section(title, name, [f"- {key}: {value}" for key, value in result.items() if key not in skip])
    return "\n".join(parts) + "\n"


def gpu_lines(gpu: dict) -> list[str]:
    """Search by batch size, eager and as CUDA graphs; then the other sections, a line each."""
    graphs, rows = gpu.get("graphs", {}), []
    for batch, eager in gpu["search"].items():
        if isinstance(eager, dict):
            graph = graphs.get(batch, {"ms": float("nan"), "a_second": 0})
            rows.append([batch, f"{eager['ms']:.1f}", f"{eager['a_second']:,}"])
            rows[-1] += [f"{graph['ms']:.1f}", f"{graph['a_second']:,}"]
    lines = [
        markdown_table(["users", "eager, ms", "users a second", "CUDA graph, ms", "users a second"], rows, left=0),
        "",
    ]
    for name in ("options", "recommend", "service", "prefixes", "training", "compiled"):
        parts = {key: value for key, value in gpu.get(name, {}).items() if isinstance(value, dict)}
        if parts:
            unit = {"training": "targets", "compiled": "targets", "service": "requests"}.get(name, "users")
            told = "; ".join(f"{key}: {value['a_second']:,} {unit} a second" for key, value in parts.items())
            lines.append(f"- {name}: {told}")
    if trie := gpu.get("trie"):
        lines.append(
            f"- trie of {trie['items']:,} items: {trie['ms']:.2f} ms a step for all beams of 1,024 users, "
            f"{trie['bytes_an_item']:.0f} bytes an item, built on the CPU in {trie['build_seconds']:.0f} s"
        )
    if rqvae := gpu.get("rqvae"):
        lines.append(
            f"- RQ-VAE over {rqvae['vectors']:,} vectors of 768: {rqvae['steps']} steps, k-means start and "
            f"standardization included, in {rqvae['fit_seconds']:.1f} s"
        )
    return lines


def load_lines(load: dict) -> list[str]:
    """Latency and refusals by queue and offered rate; the sweeps side by side."""
    groups: dict[tuple[int, float], list[dict]] = {}
    for row in load["rows"]:
        groups.setdefault((row["queue"], row["offered_a_second"]), []).append(row)

    def each(rows: list[dict], key: str) -> str:
        return " / ".join("none" if row[key] is None else f"{row[key]:,.0f}" for row in rows)

    table = []
    for (queue, offered), rows in groups.items():
        refused = " / ".join(f"{1 - row['answered'] / max(row['requests'], 1):.0%}" for row in rows)
        cells = [each(rows, key) for key in ("answered_a_second", "p50_ms", "p99_ms")]
        table.append([f"{queue:,}", f"{offered:,.0f}", *cells, refused])
    statuses = sorted({status for row in load["rows"] for status in row["errors"]})
    cpu = min(row["service_cpu_ms_a_request"] for row in load["rows"])
    closed = load["closed_loop"]
    return [
        "![Latency and refusals against offered load](load.png)",
        "",
        markdown_table(
            ["queue", "offered a second", "answered a second", "p50, ms", "p99, ms", "errors"], table, left=0
        ),
        "",
        f"The sweeps stand side by side. {closed['clients']} clients that wait for their answers get "
        f"{closed['answered_a_second']:,.0f} a second; at best, a request takes the service {cpu:.1f} ms of CPU time, "
        f"which a core of its own would do {1e3 / cpu:,.0f} times a second. Answered a second: until the last answer. "
        f"Statuses of errors: {', '.join(statuses) or 'none'}.",
    ]


def draw_load(load: dict, file: Path) -> None:
    """Latency and answers against offered load, a line per queue and sweep."""
    figure, (latency, answers) = plt.subplots(1, 2, figsize=(12, 4.5))
    colors = dict(zip(sorted({row["queue"] for row in load["rows"]}, reverse=True), COLORS.values()))
    for queue, sweep in sorted({(row["queue"], row["sweep"]) for row in load["rows"]}):
        rows = [row for row in load["rows"] if (row["queue"], row["sweep"]) == (queue, sweep)]
        offered = [row["offered_a_second"] for row in rows]
        for key, style in (("p50_ms", "o-"), ("p99_ms", "^--")):
            label = f"{key[:3]}, queue of {queue:,}" if sweep == 1 else None
            values = [float("nan") if row[key] is None else row[key] for row in rows]
            latency.plot(offered, values, style, color=colors[queue], label=label, markersize=4, linewidth=1)
        label = f"queue of {queue:,}" if sweep == 1 else None
        rates = [row["answered_a_second"] for row in rows]
        answers.plot(offered, rates, "o-", color=colors[queue], label=label, markersize=4, linewidth=1)
    limit = max(row["offered_a_second"] for row in load["rows"])
    answers.plot([0, limit], [0, limit], color="#888888", linewidth=0.8, label="all that is offered")
    latency.set_yscale("log")
    latency.set_ylabel("milliseconds, from when a request should be sent")
    latency.set_title("Latency of answered requests", fontsize=10, loc="left")
    answers.set_ylabel("answered a second")
    answers.set_title("Answers", fontsize=10, loc="left")
    answers.set_ylim(bottom=0)
    for axis in (latency, answers):
        axis.set_xlim(left=0)
        axis.set_xlabel("requests offered a second")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    print(file)


def floor(cells: list[dict], ratios: dict[str, float]) -> list[str]:
    """Cases below four times the speed of ``generate``, and the limit set by the matrix products alone."""
    told = []
    for cell in cells:
        where = f"batch {cell['batch']}, {cell['beams']} beams"
        for suffix in ("", ", bfloat16"):
            ratio, best = (ratios.get(f"{where}, {text}{suffix}") for text in (AGAINST_HF, FLOOR))
            if best is not None and ratio < 4:
                told.append(f"{where}{suffix}: {ratio:.1f}, with nothing but tiger's matrix products {best:.1f}")
    return [f"Less than four times faster than the better of `generate`: {'; '.join(told)}."] if told else []


def whole_fit(indexing: dict) -> str:
    """Result of the run with all steps of the RQ-VAE, where there was one."""
    whole = indexing.get("whole_rqvae_fit")
    if whole is None:
        return ""
    seconds = next(value for name, value in whole["cpu_seconds"].items() if name.startswith("RQ-VAE"))
    return (
        f"All of it took {seconds:,.0f} CPU seconds (`{whole['command']}`, beside {whole['beside']}, which put adding "
        f"items at {whole['adding_ms']['median']} ms). "
    )


def growth_lines(growth: dict) -> list[str]:
    """Seconds and memory of each stage at each size, and the exponent of time."""
    sizes = sorted({one["items"] for row in growth["rows"] for one in row["sizes"]})
    rows = []
    for row in growth["rows"]:
        by_size = {one["items"]: one for one in row["sizes"]}
        cells = [
            ""
            if (one := by_size.get(size)) is None
            else one.get("failed") or f"{one['cpu_seconds']:,.3g} s, {max(one['peak_mib'], 0):,} MiB"
            for size in sizes
        ]
        rows.append([row["stage"], *cells, row.get("exponent of cpu_seconds", "")])
    heads = ["", *(f"{size:,} items" for size in sizes), "exponent of time"]
    return [markdown_table(heads, rows), "", "1 is linear, 0 flat.", "", "![Growth](growth.png)"]


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "recipes/results/speed")
    (folder / "README.md").write_text(page(folder))
    if load := read(folder, "load"):
        draw_load(load, folder / "load.png")
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
        axes[1][0].barh(names, [100 * shares[name] for name in names], color=COLORS["tiger"])
        axes[1][0].set_xlabel("% of CPU time")
        axes[1][0].set_title("Where a training step's time goes", fontsize=10, loc="left")
    if catalogue := read(folder, "catalogue"):
        rows = catalogue["rows"]
        sizes = [row["items"] for row in rows]
        axes[1][1].plot(sizes, [row["decode_ms_a_step"] for row in rows], "o-", color=COLORS["tiger"], label="step")
        axes[1][1].plot(sizes, [row["trie_ms_a_step"] for row in rows], "o-", color=COLORS["cornac"], label="its trie")
        axes[1][1].set_xscale("log")
        axes[1][1].set_ylim(bottom=0)
        axes[1][1].set_xlabel("items in the catalog")
        axes[1][1].set_ylabel("CPU ms")
        axes[1][1].legend(frameon=False)
        axes[1][1].set_title("A decoding step against the catalog's size", fontsize=10, loc="left")
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
