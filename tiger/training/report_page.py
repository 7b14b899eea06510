"""Pages of a report: Markdown, HTML that needs no other file, and the training's curve as a picture."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tiger.training.decisions import HEADS
from tiger.training.report import CURVE, HISTORY, Section, history_of, sections_of
from tiger.training.stories import told
from tiger.utils.files import write_atomically
from tiger.utils.markdown import markdown_table

STYLE = """
:root {color-scheme: light dark; --line: #d5d9de; --quiet: #5b6570; --accent: #0f766e; --back: #fff; --text: #1b1f24}
@media (prefers-color-scheme: dark) {:root {--line: #3a4047; --quiet: #9aa4af; --accent: #4fb8ad; --back: #16191d;
  --text: #e6e9ec}}
body {font: 16px/1.5 system-ui, sans-serif; max-width: 880px; margin: 32px auto; padding: 0 16px;
  background: var(--back); color: var(--text)}
h1 {font-size: 26px; margin: 0 0 4px} h2 {font-size: 19px; margin: 36px 0 10px}
p {margin: 8px 0} .quiet {color: var(--quiet)}
table {border-collapse: collapse; margin: 8px 0; display: block; overflow-x: auto}
th, td {padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top}
td.number, th.number {text-align: right; font-variant-numeric: tabular-nums; padding: 5px 0 5px 24px}
tr.best td {font-weight: 600; color: var(--accent)}
td:first-child {white-space: nowrap} img {max-width: 100%; margin-top: 10px; background: #fff; border-radius: 6px}
.stories {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 14px}
.story {border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; overflow-wrap: anywhere}
.story ol {margin: 4px 0 8px; padding-left: 22px} .hit {font-weight: 600; color: var(--accent)}
code {font: 14px ui-monospace, monospace; overflow-wrap: anywhere}
.decisions code {white-space: nowrap; overflow-wrap: normal}
"""


def write_report(out: str | os.PathLike, model: str, dataset: str, results: dict) -> Path:
    """Write ``report.md``, ``report.html`` and the picture that the former links to; arguments as for
    :func:`tiger.training.report.sections_of`. Returns the HTML's path."""
    out = Path(out)
    if curve := history_of(out / "training" / HISTORY):
        write_atomically(out / CURVE, curve_picture(curve))
    sections = sections_of(out, model, dataset, results)
    title = f"{Path(dataset).name}: a recommender"
    write_atomically(out / "report.md", markdown_of(title, sections))
    write_atomically(out / "report.html", html_of(title, sections, out))
    return out / "report.html"


def markdown_of(title: str, sections: Sequence[Section]) -> str:
    """The report as Markdown."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        if section.facts:
            parts.append(markdown_table(["", ""], [[*fact] for fact in section.facts], left=2))
        parts += section.notes
        if section.rows:
            parts.append(markdown_table([*section.heads], [[*row] for row in section.rows]))
        if section.decisions:
            rows = [[*texts, f"`{change}`"] for *texts, change in section.decisions]
            parts.append(markdown_table(HEADS, rows, left=len(HEADS)))
        if section.picture:
            parts.append(f"![{section.title}]({section.picture})")
        # Titles are anybody's text: as code, they are no markup.
        parts += ["\n".join(f"    {line}" for line in told(story).splitlines()) for story in section.stories]
        if section.commands:
            width = max(len(command) for _, command in section.commands)
            parts.append("\n".join(f"    {command:{width}}  # {name}" for name, command in section.commands))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def html_of(title: str, sections: Sequence[Section], folder: Path) -> str:
    """The report as one HTML file.

    Args:
        folder: where pictures lie.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        if section.facts:
            lines = (f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in section.facts)
            body.append(f"<table>{''.join(lines)}</table>")
        body += [f"<p>{escape(note)}</p>" for note in section.notes]
        if section.rows:
            body.append(_table(section))
        if section.decisions:
            body.append(_decisions(section))
        if section.picture:
            encoded = base64.b64encode((folder / section.picture).read_bytes()).decode()
            body.append(f'<img alt="{escape(section.title)}" src="data:image/png;base64,{encoded}">')
        if section.stories:
            body.append(f'<div class="stories">{"".join(map(_story, section.stories))}</div>')
        if section.commands:
            lines = (
                f"<tr><td>{escape(name)}</td><td><code>{escape(line)}</code></td></tr>"
                for name, line in section.commands
            )
            body.append(f"<table>{''.join(lines)}</table>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        "<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _table(section: Section) -> str:
    best = max(section.rows, key=lambda row: float(row[-1]))
    heads = "".join(
        f"<th{' class=number' if place else ''}>{escape(head)}</th>" for place, head in enumerate(section.heads)
    )
    lines = [f"<tr>{heads}</tr>"]
    for row in section.rows:
        cells = "".join(f"<td{' class=number' if place else ''}>{escape(cell)}</td>" for place, cell in enumerate(row))
        lines.append(f"<tr{' class=best' if row is best else ''}>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _decisions(section: Section) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(head)}</th>" for head in HEADS) + "</tr>"]
    for *texts, change in section.decisions:
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        settings = "<br>".join(f"<code>{escape(word)}</code>" for word in change.split(" "))
        lines.append(f"<tr>{cells}<td>{settings}</td></tr>")
    return f'<table class="decisions">{"".join(lines)}</table>'


def _story(story) -> str:
    def listed(names: Sequence[tuple[str, str]]) -> str:
        return "".join(f"<li{kind}>{escape(name)}</li>" for name, kind in names)

    past = listed([(name, "") for name in story["history"]])
    answers = listed([(one["title"], ' class="hit"' if one["hit"] else "") for one in story["recommended"]])
    had = f"user {story['user']} had, the last of {story['events']} items"
    first = story["events"] - len(story["history"]) + 1
    return (
        f'<div class="story"><div class="quiet">{escape(had)}</div>'
        f'<ol start="{first}">{past}</ol><div class="quiet">then came</div>'
        f'<p>{escape(story["next"])}</p><div class="quiet">recommended</div><ol>{answers}</ol></div>'
    )


def curve_picture(history: Sequence[dict]) -> bytes:
    """Draw loss and validation NDCG over epochs: a PNG.

    Args:
        history: Trainer's log.
    """
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    losses, metric = figure.subplots(1, 2)
    for name, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(row["epoch"], float(row[name])) for row in history if name in row]
        if not points:  # a short training, or one that does not validate
            continue
        losses.plot(*zip(*points), label=label, linewidth=2, marker="o" if len(points) < 30 else "")
    losses.set(xlabel="epoch", ylabel="loss per item", title="Loss")
    if losses.has_data():
        losses.legend(frameon=False)
    points = [(row["epoch"], row["eval_ndcg@10"]) for row in history if "eval_ndcg@10" in row]
    metric.plot(*zip(*points), color="#0f766e", linewidth=2, marker="o")
    metric.set(xlabel="epoch", ylabel="NDCG@10", title="Validation, the T5 alone", ylim=(0, None))
    for axes in (losses, metric):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.02)
        for line in axes.lines:  # markers at the edge are whole
            line.set_clip_on(False)
        if history and max(row.get("epoch", 0) for row in history) >= 2:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
