"""A Gradio page to try a recommender: choose a history, see recommendations, browse the tree of codes.

Plain functions make the HTML; the rest connects them to Gradio. Texts of items are not trusted: all are escaped in
HTML. Nothing is loaded from other hosts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from tiger.recommender.recommender import TigerRecommender  # noqa: E402
from tiger.retriever.search_options import option_default, option_help  # noqa: E402
from tiger.semantic_ids.code_tree import CodeTree, Shared, shared_prefixes  # noqa: E402
from tiger.serving.page_guard import PageGuard  # noqa: E402
from tiger.utils.errors import DataError  # noqa: E402

CSS = """
.gradio-container {max-width: 1100px !important; margin: auto !important}
.tiger {font-size: 15px; line-height: 1.45; overflow-wrap: anywhere; color: var(--body-text-color)}
.tiger h3 {margin: 18px 0 8px; font-size: 15px; font-weight: 600}
.tiger .quiet {font-size: 13px; font-weight: 400; opacity: .72}
.tiger ol {list-style: none; margin: 0; padding: 0; display: grid; gap: 8px}
.tiger li {display: grid; grid-template-columns: minmax(0, 1fr) auto; column-gap: 10px; align-items: start;
  border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 10px 12px; margin: 0;
  background: var(--background-fill-primary)}
.tiger .numbered li {grid-template-columns: 24px minmax(0, 1fr) auto}
.tiger .place {font-variant-numeric: tabular-nums; opacity: .72; text-align: right}
.tiger .name {font-weight: 600}
.tiger .score {font-variant-numeric: tabular-nums; font-size: 13px; text-align: right; white-space: nowrap}
.tiger .codes {display: flex; flex-wrap: wrap; gap: 4px; margin-top: 6px; align-items: center}
.tiger .code {font-family: var(--font-mono); font-size: 12px; padding: 1px 7px; border-radius: 6px;
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent)}
.tiger .code:last-of-type {border-style: dashed}
.tiger .code.shared {background: #0f766e; border-color: #0f766e; color: #fff}
.tiger .groups {display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 4px 28px}
.tiger .share {display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2px 10px; padding: 3px 0}
.tiger .bar {grid-column: 1 / -1; height: 4px; border-radius: 2px; background: var(--border-color-primary)}
.tiger .bar i {display: block; height: 4px; border-radius: 2px; background: #0f766e}
@media (max-width: 600px) {
  .gradio-container {padding: 8px !important}
  .tiger li {padding: 9px 10px; column-gap: 8px}
  .tiger .numbered li {grid-template-columns: 20px minmax(0, 1fr)}
  .tiger .numbered .score {grid-column: 2; text-align: left; margin-top: 4px}
}
"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # of events
COLUMNS = {"categories": "Categories", "brand": "Brands", "title": "Words of the titles"}


def code_chips(semantic_id: Sequence[int], shared: int = 0, note: str = "") -> str:
    """A semantic ID as HTML, its first ``shared`` codes highlighted; ``note`` says why."""
    chips = "".join(
        f'<span class="code{" shared" if level < shared else ""}">{int(code)}</span>'
        for level, code in enumerate(semantic_id)
    )
    why = f'<b class="quiet">{escape(note)}</b>' if note else ""
    return f'<div class="codes">{chips}{why}</div>'


def item_card(tree: CodeTree, row: int, place: str, score: str, shared: int = 0, with_item: int = -1) -> str:
    """An item as an entry of a list.

    Args:
        row: row of the item.
        place, score: texts before and after it; left out if empty.
        shared: number of codes to highlight.
        with_item: row of the item that shares them; -1: none.
    """
    about = [tree.brands[row] if tree.brands else "", tree.categories[row] if tree.categories else ""]
    note = "" if with_item < 0 else f"as {tree.titles[with_item]}"
    before = f'<span class="place">{escape(place)}</span>' if place else ""
    after = f'<span class="score">{escape(score)}</span>' if score else ""
    return (
        f'<li>{before}<div><div class="name">{escape(tree.titles[row])}</div>'
        f'<div class="quiet">{escape(" · ".join(part for part in about if part))}</div>'
        f"{code_chips(tree.semantic_ids[row], shared, note)}</div>{after}</li>"
    )


def history_html(tree: CodeTree, rows: Sequence[int] | np.ndarray) -> str:
    """The chosen items with their semantic IDs."""
    if len(rows) == 0:
        return '<div class="tiger quiet">Nothing chosen yet: what is shown is what anybody may like.</div>'
    cards = [item_card(tree, row, str(place), "") for place, row in enumerate(rows, start=1)]
    return f'<div class="tiger"><ol class="numbered">{"".join(cards)}</ol></div>'


def answer_html(tree: CodeTree, rows: Sequence[int], scores: Sequence[str], history: Sequence[int]) -> str:
    """Recommended items, best first, with the codes that they share with items of the history."""
    if len(rows) == 0:
        return '<div class="tiger quiet">There is nothing left to recommend.</div>'
    lengths, who = shared_prefixes(tree.semantic_ids[list(rows)], tree.semantic_ids[list(history)])
    cards = [
        item_card(tree, row, str(place), score, int(length), -1 if one < 0 else int(history[one]))
        for place, (row, score, length, one) in enumerate(zip(rows, scores, lengths, who), start=1)
    ]
    return f'<div class="tiger"><ol id="answers" class="numbered">{"".join(cards)}</ol></div>'


def shares_html(found: list[Shared], count: int) -> str:
    """Common properties of ``count`` items: how many of them have each, and its lift."""
    return "".join(
        f'<div class="share"><span>{escape(one.value)}</span><span class="quiet">{one.count} of {count} · '
        f"{one.lift:,.{0 if one.lift >= 10 else 1}f}×</span>"
        f'<div class="bar"><i style="width: {100 * one.count / count:.0f}%"></i></div></div>'
        for one in found
    )


def branch_html(tree: CodeTree, prefix: Sequence[int], examples: int = 8) -> str:
    """The items under a prefix: how many, what they have in common, and some of them."""
    rows = tree.under(prefix)
    name = ", ".join([*map(str, prefix), *["*"] * (tree.codes.shape[1] - len(prefix))])
    parts = [
        f'<div class="tiger"><h3>({name}): {len(rows):,} of {len(tree):,} items</h3>'
        '<div class="quiet">Properties that are more frequent here than in the whole catalog: in how many '
        'items, and how many times as often</div><div class="groups">'
    ]
    for column, found in tree.shared(prefix).items():
        if found:
            parts.append(f"<div><h3>{COLUMNS[column]}</h3>{shares_html(found, len(rows))}</div>")
    parts.append("</div><h3>Some of them</h3><ol>")
    chosen = rows[np.linspace(0, len(rows) - 1, min(examples, len(rows))).astype(int)]
    parts += [item_card(tree, row, "", "", len(prefix)) for row in chosen]
    return "".join([*parts, "</ol></div>"])


def branch_choices(tree: CodeTree, prefix: Sequence[int]) -> list[tuple[str, int]]:
    """Codes that may follow a prefix, as ``(label, code)``; labels name the items' number and main property."""
    choices = []
    for code, count in tree.children(prefix):
        shared = tree.shared([*prefix, code], limit=1)
        properties = [*shared.get("categories", []), *shared.get("title", [])]
        items = "1 item" if count == 1 else f"{count} items"
        choices.append((f"{code}: {items}" + (f", {properties[0].value}" if properties else ""), code))
    return choices


class PageHandlers:
    """Event handlers of the page: what its inputs hold becomes HTML and updates of other inputs."""

    def __init__(self, recommender: TigerRecommender):
        self.recommender = recommender
        self.tree = CodeTree(recommender.tokenizer, recommender.items)
        self.has_ranker = recommender.ranker is not None
        self.levels = self.tree.codes.shape[1]

    def rows_of(self, item_ids: list[str] | None) -> np.ndarray:
        """Rows of the known items among these."""
        rows = self.recommender.tokenizer.rows(item_ids or [], missing=-1)
        return rows[rows >= 0]

    def find(self, query: str):
        """Items whose titles or ids have the words of the query, as choices."""
        rows = self.tree.search(query)
        choices = [(self.tree.titles[row], self.tree.item_ids[row]) for row in rows]
        label = "Choose one" if choices or not query.strip() else "No title or id has all of these words"
        return gr.update(choices=choices, value=None, label=label, visible=bool(query.strip()))

    def choose(self, item: str, chosen: list[str] | None):
        """Append an item to the history; clear the search."""
        rows = self.rows_of(list(dict.fromkeys([*(chosen or []), item])))
        choices = [(self.tree.titles[row], self.tree.item_ids[row]) for row in rows]
        return gr.update(choices=choices, value=[item for _, item in choices]), "", gr.update(visible=False)

    def recommend(self, chosen, k, beams, temperature, exclude, rank) -> str:
        """The recommended items as HTML."""
        rank = self.has_ranker and rank
        items, scores = self.recommender.recommend(
            [[self.tree.item_ids[row] for row in self.rows_of(chosen)]],
            k=int(k),
            num_beams=max(int(beams), int(k)),
            temperature=temperature or None,
            exclude_history=exclude,
            rank=rank,
            both_scores=rank,
        )
        if rank:
            lines = [
                f"ranker {logit:.2f}, " + ("not the T5's" if np.isneginf(beam) else f"T5 {beam:.2f}")
                for beam, logit in scores[0][: len(items[0])]
            ]
        else:
            lines = [f"log p {score:.2f}" for score in scores[0][: len(items[0])]]
        return answer_html(self.tree, self.rows_of(items[0]).tolist(), lines, self.rows_of(chosen).tolist())

    def browse(self, *codes):
        """Choices of every level after the first, and the items under the chosen prefix."""
        prefix = []
        for code in codes:
            if code is None:
                break
            prefix.append(code)
        updates = []
        for level in range(1, self.levels):
            known = level <= len(prefix)
            choices = branch_choices(self.tree, prefix[:level]) if known else []
            value = prefix[level] if len(prefix) > level and prefix[level] in dict(choices).values() else None
            if value is None:
                prefix = prefix[:level] if known else prefix
            updates.append(gr.update(choices=choices, value=value, interactive=known))
        return [*updates, branch_html(self.tree, prefix)]

    def show(self, chosen) -> str:
        """The history as HTML."""
        return history_html(self.tree, self.rows_of(chosen))


def create_page(recommender: TigerRecommender) -> gr.Blocks:
    """The page, ready to launch."""
    handlers = PageHandlers(recommender)
    with gr.Blocks(title="tiger", analytics_enabled=False) as page:
        count = f"{len(handlers.tree):,} items, semantic IDs of {handlers.levels} codes and a collision token"
        gr.Markdown(f"# tiger\n{count}")
        with gr.Tab("Recommend"):
            _recommend_tab(handlers)
        with gr.Tab("Tree of codes", elem_id="tree"):
            _tree_tab(handlers)
    return page


def _recommend_tab(handlers: PageHandlers) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            query = gr.Textbox(label="Search titles and ids", placeholder="shampoo", elem_id="query")
            found = gr.Radio(label="Choose one", choices=[], visible=False, elem_id="found")
            chosen = gr.Dropdown(
                label="History, oldest first (ids can be pasted)",
                choices=[],
                value=[],
                multiselect=True,
                allow_custom_value=True,
                elem_id="chosen",
            )
            with gr.Accordion("The history's semantic IDs", open=False):
                history = gr.HTML(history_html(handlers.tree, []))
            with gr.Accordion("Settings", open=False, elem_id="settings"):
                settings = _settings(handlers.has_ranker)
            go = gr.Button("Recommend", variant="primary", elem_id="go")
        with gr.Column(min_width=300, scale=2):
            answers = gr.HTML(elem_id="answer")
    query.input(handlers.find, query, found, trigger_mode="always_last", **QUIET)
    # No preprocessing: a click may be on a list that the next letter has replaced meanwhile.
    found.input(handlers.choose, [found, chosen], [chosen, query, found], preprocess=False, **QUIET)
    chosen.change(handlers.show, chosen, history, **QUIET)
    go.click(handlers.recommend, [chosen, *settings], answers, api_visibility="private")


def _settings(has_ranker: bool) -> list[gr.components.Component]:
    """Inputs for the number of items and the search options, in the order of ``PageHandlers.recommend``."""
    return [
        gr.Slider(1, 50, 10, step=1, label="Items"),
        gr.Slider(
            1, 200, option_default("num_beams"), step=1, label="Beams", info=option_help("num_beams").capitalize()
        ),
        gr.Slider(0, 3, 0, step=0.1, label="Temperature", info="0: the most probable; else a sample"),
        gr.Checkbox(
            option_default("exclude_history"), label=option_help("exclude_history").capitalize(), elem_id="exclude"
        ),
        gr.Checkbox(has_ranker, label="Order by the ranker", visible=has_ranker, elem_id="rank"),
    ]


def _tree_tab(handlers: PageHandlers) -> None:
    gr.Markdown("What do items that begin with the same codes have in common?")
    with gr.Row():
        picks = [
            gr.Dropdown(
                label=f"Code {level + 1}",
                choices=branch_choices(handlers.tree, []) if level == 0 else [],
                value=None,
                interactive=level == 0,
                min_width=200,
                elem_id=f"code-{level + 1}",
            )
            for level in range(handlers.levels)
        ]
    branch = gr.HTML(branch_html(handlers.tree, []), elem_id="branch")
    for pick in picks:
        pick.input(handlers.browse, picks, [*picks[1:], branch], **QUIET)


def launch(recommender: TigerRecommender, host: str = "127.0.0.1", port: int = 7860, share: bool = False) -> None:
    """Show the page until interrupted.

    Raises:
        DataError: the address is in use or invalid.
    """
    # System fonts: those of a theme would be loaded from another host.
    theme = gr.themes.Base(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    page = create_page(recommender)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=theme,
            css=CSS,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            max_file_size=1,
            app_kwargs={"middleware": [Middleware(PageGuard)]},
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise DataError(f"can't listen on {host}, port {port}: {error}") from error
    print(f"{len(recommender.tokenizer)} items on {page.share_url or page.local_url}", flush=True)
    page.block_thread()
