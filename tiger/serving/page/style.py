"""Style of the page: a theme without fonts of other hosts, and CSS. All text has a contrast of at least 4.5 to 1."""

from __future__ import annotations

import gradio as gr

CSS = """
.gradio-container {max-width: 1140px !important; width: 100%; margin: auto !important}
.gradio-container .main.fillable {padding: 16px clamp(12px, 3vw, 32px) !important}
.gradio-container .html-container {padding: 0}
#found:not(:has(.tiger)) {display: none}
.gradio-container .min_value, .gradio-container .max_value, .gradio-container input.subdued {
  color: var(--tiger-quiet) !important}
.gradio-container button[role=tab].selected {color: var(--tiger-accent) !important; font-weight: 600}
.gradio-container input::placeholder, .gradio-container textarea::placeholder {color: var(--tiger-quiet) !important;
  opacity: 1}
:root {--tiger-accent: #0f766e; --tiger-on-accent: #fff; --tiger-quiet: #52525b}
.dark {--tiger-accent: #5eead4; --tiger-on-accent: #042f2e; --tiger-quiet: #d4d4d8}
.tiger {font-size: 15px; line-height: 1.45; overflow-wrap: anywhere; color: var(--body-text-color)}
.tiger h2 {margin: 18px 0 8px; font-size: 17px; font-weight: 600}
.tiger h3 {margin: 18px 0 8px; font-size: 15px; font-weight: 600}
.tiger .quiet, .tiger.quiet {font-size: 13px; font-weight: 400; color: var(--tiger-quiet)}
.tiger ol, .tiger ul {list-style: none; margin: 0; padding: 0; display: grid; gap: 8px}
.tiger li {display: grid; grid-template-columns: minmax(0, 1fr) auto; column-gap: 10px; align-items: start;
  border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 10px 12px; margin: 0;
  background: var(--background-fill-primary)}
.tiger .numbered li {grid-template-columns: 24px minmax(0, 1fr) auto}
.tiger .place {font-variant-numeric: tabular-nums; color: var(--tiger-quiet); text-align: right}
.tiger .about {display: flex; gap: 12px; min-width: 0}
.tiger .about > div {min-width: 0}
.tiger .image {flex: none; width: 64px; height: 64px; margin: 0; object-fit: contain; border-radius: 6px}
.tiger .name {font-weight: 600}
.tiger .codes {display: flex; flex-wrap: wrap; gap: 4px; margin-top: 6px; align-items: center}
.tiger .code {font-family: var(--font-mono); font-size: 12px; padding: 1px 7px; border-radius: 6px;
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent)}
.tiger .code:last-of-type {border-style: dashed}
.tiger .code.shared {background: var(--tiger-accent); border-color: var(--tiger-accent); color: var(--tiger-on-accent)}
.tiger .because {margin-top: 6px; font-size: 14px}
.tiger .aside {display: grid; gap: 8px; justify-items: end}
.tiger .meter {width: 116px; height: 8px; margin-top: 7px; border-radius: 4px; background: var(--border-color-primary)}
.tiger .meter i {display: block; height: 8px; min-width: 3px; border-radius: 4px; background: var(--tiger-accent)}
.tiger button.act {font: inherit; font-size: 13px; padding: 4px 10px; min-height: 28px; border-radius: 8px;
  margin: 0 !important; cursor: pointer; border: 1px solid var(--tiger-accent); color: var(--tiger-accent);
  background: transparent; text-align: left}
.tiger button.act:hover {background: var(--tiger-accent); color: var(--tiger-on-accent)}
.tiger :focus-visible {outline: 2px solid var(--tiger-accent); outline-offset: 2px}
.tiger .buttons {display: flex; flex-wrap: wrap; gap: 6px}
.tiger ol + button.act {margin-top: 8px}
.tiger .results li {display: block; padding: 0; border: 0}
.tiger .results button.act {width: 100%; border-color: var(--border-color-primary); color: var(--body-text-color)}
.tiger .results button.act:hover {color: var(--tiger-on-accent)}
.tiger.status {padding: 6px 10px; border-left: 3px solid var(--tiger-accent); font-size: 14px}
.tiger details {margin-top: 6px; font-size: 13px}
.tiger summary {cursor: pointer; color: var(--tiger-quiet)}
.tiger dl {margin: 6px 0 0; display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2px 12px}
.tiger dt, .tiger dd {margin: 0; font-weight: 400}
.tiger dd {font-variant-numeric: tabular-nums; text-align: right}
.tiger .unseen {position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap}
.tiger .columns {display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 4px 20px}
.tiger .also {font-size: 13px; margin-top: 4px}
.tiger .groups {display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 4px 28px}
.tiger .share {display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2px 10px; padding: 3px 0}
.tiger .bar {grid-column: 1 / -1; height: 4px; border-radius: 2px; background: var(--border-color-primary)}
.tiger .bar i {display: block; height: 4px; border-radius: 2px; background: var(--tiger-accent)}
.tiger .map {display: block; width: 100%; height: auto; border: 1px solid var(--border-color-primary);
  border-radius: 10px; background: var(--background-fill-primary)}
.tiger .map circle {fill-opacity: .8}
.tiger .map circle:hover {fill-opacity: 1; stroke: var(--body-text-color); stroke-width: 1.5}
.tiger .mark rect {stroke: var(--body-text-color); stroke-width: 2.5}
.tiger .mark.answer circle {fill: var(--background-fill-primary); fill-opacity: 1; stroke: var(--body-text-color);
  stroke-width: 2}
.tiger .mark text {font-size: 12px; font-weight: 600; text-anchor: middle; fill: var(--body-text-color)}
.tiger .caption {min-height: 22px; margin: 6px 0 0}
.tiger .map + .caption + details dl {grid-template-columns: max-content minmax(0, 1fr)}
.tiger .map + .caption + details dd {text-align: left}
.tiger .swatch {display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px}
@media (max-width: 600px) {
  .tab-container button {padding: 0 8px !important}
  .tiger li {padding: 9px 10px; column-gap: 8px}
  .tiger .numbered li {grid-template-columns: 20px minmax(0, 1fr)}
  .tiger .numbered .aside {grid-column: 2; grid-auto-flow: column; justify-items: start;
    justify-content: space-between; align-items: center; margin-top: 6px}
  .tiger .meter {margin-top: 0}
  .tiger .map circle {r: 7px}
  .tiger .mark.answer circle {r: 18px}
  .tiger .map text {font-size: 22px; transform: translateY(4px)}
}
"""


def page_theme() -> gr.themes.Base:
    """Gradio's plain theme with system fonts (a theme's own would come from another host) and readable colors."""
    theme = gr.themes.Base(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    dark, darker = "*primary_700", "*primary_800"
    return theme.set(
        button_primary_background_fill=dark,
        button_primary_background_fill_dark=dark,
        button_primary_background_fill_hover=darker,
        button_primary_background_fill_hover_dark=darker,
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
