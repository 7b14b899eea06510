"""A Gradio page to try a recommender: choose a history, see recommendations and reasons, compare, browse.

The parts of :mod:`tiger.serving.page` make the HTML and handle the events; this file connects them to Gradio. Nothing
is loaded from other hosts, unless images are asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from tiger._moved import old_names  # noqa: E402
from tiger.data.filter_terms import MAX_NAMES  # noqa: E402
from tiger.recommender.recommender import TigerRecommender  # noqa: E402
from tiger.retriever.search_options import option_default, option_help  # noqa: E402
from tiger.serving.page import scripts  # noqa: E402
from tiger.serving.page.branches import branch_choices, branch_html  # noqa: E402
from tiger.serving.page.cards import button_html, history_html  # noqa: E402
from tiger.serving.page.handlers import PageHandlers  # noqa: E402
from tiger.serving.page.link import MAX_K, MAX_NUM_BEAMS, MAX_TEMPERATURE, VIEWS, PageState  # noqa: E402
from tiger.serving.page.style import CSS, page_theme  # noqa: E402
from tiger.serving.page_guard import PageGuard  # noqa: E402
from tiger.utils.errors import DataError  # noqa: E402

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # of events
SEARCH_BOX = "#query textarea, #query input"


@dataclass
class _Inputs:
    """Inputs that several tabs read: the history, the answers' ids, the open tab, the settings and the message."""

    chosen: gr.JSON
    shown: gr.JSON
    view: gr.Textbox
    status: gr.HTML
    answers: gr.HTML
    settings: list[gr.components.Component]


def create_page(recommender: TigerRecommender, show_images: bool = False) -> gr.Blocks:
    """The page, ready to launch.

    Args:
        show_images: let browsers load images from where the item table says.
    """
    handlers = PageHandlers(recommender, show_images)
    with gr.Blocks(title="tiger", analytics_enabled=False) as page:
        count = f"{len(handlers.catalog):,} items, semantic IDs of {handlers.levels} codes and a collision token"
        gr.Markdown(f"# tiger\n{count}")
        with gr.Tabs(elem_id="views") as tabs:
            with gr.Tab("Recommend", id=VIEWS[0]):
                inputs = _recommend_tab(handlers)
            with gr.Tab("Compare", id=VIEWS[1]):
                comparison = gr.HTML(elem_id="comparison")
            with gr.Tab("Map", id=VIEWS[2]):
                item_map = gr.HTML(elem_id="map", js_on_load=scripts.CAPTION)
            with gr.Tab("Tree of codes", id=VIEWS[3], elem_id="tree"):
                _tree_tab(handlers)
        read = [inputs.chosen, *inputs.settings]
        tabs.select(
            handlers.open_view,
            [inputs.chosen, inputs.shown, *inputs.settings],
            [inputs.view, comparison, item_map],
            api_visibility="private",
        )
        _connect_address(page, handlers, inputs, tabs, read)
    return page


def _connect_address(page: gr.Blocks, handlers: PageHandlers, inputs: _Inputs, tabs: gr.Tabs, read: list) -> None:
    """Open what the page's address says, and keep the address up to date."""
    address = gr.Textbox(visible=False)
    page.load(handlers.open_link, address, [*read, tabs, inputs.status], js=scripts.READ_ADDRESS, **QUIET).then(
        handlers.reopen, read, [inputs.answers, inputs.shown], **QUIET
    )
    link = gr.Textbox(visible=False)
    changes = [one.change for one in [*read, inputs.view]]
    gr.on(changes, handlers.link, [*read, inputs.view], link, trigger_mode="always_last", **QUIET).then(
        None, link, None, js=scripts.WRITE_ADDRESS, api_visibility="private"
    )


def _recommend_tab(handlers: PageHandlers) -> _Inputs:
    chosen, shown = gr.JSON([], visible=False), gr.JSON([], visible=False)
    view = gr.Textbox(VIEWS[0], visible=False)
    with gr.Row():
        with gr.Column(min_width=300):
            starters = gr.HTML(_starters_html(handlers), js_on_load=scripts.BUTTONS, elem_id="starters")
            query = gr.Textbox(
                label="Search titles, or paste ids and press Enter",
                placeholder=handlers.catalog.example_query(),
                elem_id="query",
            )
            found = gr.HTML(elem_id="found", js_on_load=scripts.BUTTONS)
            status = gr.HTML(elem_id="status", js_on_load=scripts.LIVE)
            history = gr.HTML(
                history_html(handlers.catalog, []),
                js_on_load=scripts.BUTTONS + scripts.region("History"),
                elem_id="chosen",
            )
            allowed = _filter_box(handlers.columns)
            with gr.Accordion("Settings", open=False, elem_id="settings"):
                settings = [*_settings(handlers.has_ranker), allowed]
            go = gr.Button("Recommend", variant="primary", elem_id="go")
        with gr.Column(min_width=300, scale=2):
            answers = gr.HTML(elem_id="answer", js_on_load=scripts.BUTTONS + scripts.region("Recommendations"))
    inputs = _Inputs(chosen, shown, view, status, answers, settings)
    _connect_search(handlers, inputs, query, found)
    recommended = [answers, shown, status]
    chosen.change(handlers.show, chosen, history, **QUIET).then(
        None, None, None, js=scripts.keep_focus("#chosen .prose"), api_visibility="private"
    )
    history.click(handlers.act, chosen, [chosen, status], **QUIET)
    # Examples and answers are one click from the next answers; to what is searched, more may be added first.
    for source in (starters, answers):
        source.click(handlers.act, chosen, [chosen, status], **QUIET).then(
            handlers.recommend, [chosen, *settings], recommended, api_visibility="private"
        ).then(None, None, None, js=scripts.keep_focus("#answer .prose"), api_visibility="private")
    for event in (go.click, allowed.submit):
        event(handlers.recommend, [chosen, *settings], recommended, api_visibility="private")
    return inputs


def _connect_search(handlers: PageHandlers, inputs: _Inputs, query: gr.Textbox, found: gr.HTML) -> None:
    """Search while one types; Enter adds pasted ids; a click on a result adds it and goes back to the box."""
    outputs = [found, inputs.chosen, query, inputs.status]
    query.input(handlers.find, [query, inputs.chosen], outputs, trigger_mode="always_last", **QUIET)
    query.submit(handlers.enter, [query, inputs.chosen], outputs, **QUIET)
    found.click(handlers.act, inputs.chosen, [inputs.chosen, inputs.status], **QUIET).then(
        lambda: ("", ""), None, [query, found], **QUIET
    ).then(None, None, None, js=scripts.keep_focus(SEARCH_BOX, always=True), api_visibility="private")


def _starters_html(handlers: PageHandlers) -> str:
    """Buttons of the example histories."""
    buttons = [button_html(starter.name, "starter", str(place)) for place, starter in enumerate(handlers.starters)]
    buttons.append(button_html("Surprise me", "surprise", ""))
    title = '<div class="quiet">Example histories</div>'
    return f'<div class="tiger">{title}<div class="buttons">{"".join(buttons)}</div></div>'


def _filter_box(columns: list[str]) -> gr.Textbox:
    """Input for a filter; hidden where there are no columns to filter by."""
    shown = ", ".join(columns[:MAX_NAMES]) + (", ..." if len(columns) > MAX_NAMES else "")
    return gr.Textbox(
        label="Only items where",
        placeholder="price < 20 and brand in ('Acme', 'Bolt')",
        info=f"Columns: {shown}. Enter recommends.",
        visible=bool(columns),
        max_lines=1,
        elem_id="filter",
    )


def _settings(has_ranker: bool) -> list[gr.components.Component]:
    """Inputs for the number of items and the search options, in the order of ``PageHandlers.recommend``."""
    return [
        gr.Slider(1, MAX_K, PageState.k, step=1, label="Items"),
        gr.Slider(
            1,
            MAX_NUM_BEAMS,
            option_default("num_beams"),
            step=1,
            label="Beams",
            info=option_help("num_beams").capitalize(),
        ),
        gr.Slider(0, MAX_TEMPERATURE, 0, step=0.1, label="Temperature", info="0: the most probable; else a sample"),
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
                choices=branch_choices(handlers.catalog, []) if level == 0 else [],
                value=None,
                interactive=level == 0,
                min_width=200,
                elem_id=f"code-{level + 1}",
            )
            for level in range(handlers.levels)
        ]
    branch = gr.HTML(branch_html(handlers.catalog, []), elem_id="branch")
    for pick in picks:
        pick.input(handlers.browse, picks, [*picks[1:], branch], **QUIET)


def launch(
    recommender: TigerRecommender,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    show_images: bool = False,
) -> None:
    """Show the page until interrupted.

    Args:
        show_images: let browsers load images from where the item table says.

    Raises:
        DataError: the address is in use or invalid.
    """
    page = create_page(recommender, show_images)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=page_theme(),
            css=CSS,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            max_file_size=1,
            app_kwargs={"middleware": [Middleware(PageGuard, show_images=show_images)]},
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise DataError(f"can't listen on {host}, port {port}: {error}") from error
    print(f"{len(recommender.tokenizer)} items on {page.share_url or page.local_url}", flush=True)
    page.block_thread()


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
