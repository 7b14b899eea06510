"""A map of items in two dimensions: the retriever's token embeddings on their principal axes, as inline SVG.

An item's vector is the mean of the T5's embeddings of its tokens. The two axes are those along which the drawn items
differ most, so that near points have alike embeddings, though not all alike items are near. Points are colored by
their first code.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.code_tree import CodeTree

MAX_POINTS = 2_000  # as many as a browser draws at once, and 200 kB of SVG. Not tuned.
WIDTH, HEIGHT, MARGIN = 800, 500, 14
MAX_TITLE = 80  # characters of a point's title


class ItemMap:
    """Places of items on two axes.

    Args:
        recommender: whose T5 has the vectors.
        seed: of the sample, where the catalog is too large to draw.

    Attributes:
        rows: int64 [n], the drawn items.
        share: of the variance of their vectors, how much the two axes show.
    """

    def __init__(self, recommender: TigerRecommender, seed: int = 0):
        count = len(recommender.tokenizer)
        chosen = np.random.default_rng(seed).permutation(count)[:MAX_POINTS]
        self.rows = np.sort(chosen)
        self._tokens = recommender.tokenizer.token_table
        # Copied once: a GPU's weights would be asked for each point.
        self._embeddings = recommender.model.get_input_embeddings().weight.detach().float().cpu().numpy()
        vectors = self._vectors(self.rows)
        self._center = vectors.mean(axis=0)
        _, sizes, axes = np.linalg.svd(vectors - self._center, full_matrices=False)
        # Of an axis, only the line is given: its largest part points up, wherever this runs.
        self._axes = axes[:2] * np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
        self.share = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-12))
        places = (vectors - self._center) @ self._axes.T
        self._low, self._high = places.min(axis=0), places.max(axis=0)

    def places(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 [n, 2], from 0 to 1: the places of items, of the drawn ones or others."""
        rows = np.asarray(rows, dtype=np.int64)
        found = np.full((len(rows), 2), 0.5, dtype=np.float32)
        if len(rows):
            projected = (self._vectors(rows) - self._center) @ self._axes.T
            span = np.maximum(self._high - self._low, 1e-9)
            found[:, : projected.shape[1]] = np.clip((projected - self._low) / span, 0, 1)
        return found

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        return self._embeddings[self._tokens[rows]].mean(axis=1)


def color_of(code: int) -> str:
    """A color for a first code: hues a golden angle apart, so that any few codes differ."""
    return f"hsl({code * 137.508 % 360:.0f} 65% {(45, 58)[code % 2]}%)"


def map_html(tree: CodeTree, item_map: ItemMap, history: Sequence[int], answers: Sequence[int]) -> str:
    """The map with the history and the answers marked, and the same in words."""
    marked = [("history", list(history)), ("answer", list(answers))]
    sample = "" if len(item_map.rows) == len(tree) else f", a sample of the {len(tree):,}"
    about = (
        f"{len(item_map.rows):,} items{sample}, by the T5's embeddings of their tokens on the two axes along which "
        f"these differ most ({item_map.share:.0%} of the variance). Color: the first code. Squares: the history. "
        "Rings with numbers: the answers. Point at an item, or go to a marked one by the Tab key, to read its title."
    )
    marks = "".join(
        _mark(tree, kind, place, row, spot)
        for kind, rows in marked
        for place, (row, spot) in enumerate(zip(rows, _spots(item_map, rows)), start=1)
    )
    return (
        f'<div class="tiger"><p id="map-about" class="quiet">{about}</p>'
        f'<svg class="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="Map of items" '
        f'aria-describedby="map-about">{_dots(tree, item_map)}{marks}</svg>'
        f'<p class="caption" aria-hidden="true">&nbsp;</p>{_words(tree, marked)}</div>'
    )


def _spots(item_map: ItemMap, rows: Sequence[int] | np.ndarray) -> list[tuple[float, float]]:
    """Coordinates in the drawing."""
    places = item_map.places(rows)
    x = MARGIN + places[:, 0] * (WIDTH - 2 * MARGIN)
    y = HEIGHT - MARGIN - places[:, 1] * (HEIGHT - 2 * MARGIN)
    return list(zip(x.round(1).tolist(), y.round(1).tolist()))


def _dots(tree: CodeTree, item_map: ItemMap) -> str:
    """The drawn items, by their first codes. Who can't see them gets :func:`_words`."""
    groups: dict[int, list[str]] = {}
    for row, (x, y) in zip(item_map.rows.tolist(), _spots(item_map, item_map.rows)):
        title = escape(tree.titles[row][:MAX_TITLE])
        dot = f'<circle cx="{x:g}" cy="{y:g}" r="4"><title>{title}</title></circle>'
        groups.setdefault(int(tree.codes[row, 0]), []).append(dot)
    drawn = "".join(f'<g fill="{color_of(code)}">{"".join(dots)}</g>' for code, dots in sorted(groups.items()))
    return f'<g aria-hidden="true">{drawn}</g>'


def _mark(tree: CodeTree, kind: str, place: int, row: int, spot: tuple[float, float]) -> str:
    """A marked item, which the keyboard reaches."""
    x, y = spot
    title = escape(f"{kind} {place}: {tree.titles[row]}")
    color = color_of(int(tree.codes[row, 0]))
    if kind == "history":
        shape = f'<rect x="{x - 8:g}" y="{y - 8:g}" width="16" height="16" fill="{color}"/>'
    else:
        shape = f'<circle cx="{x:g}" cy="{y:g}" r="10"/><text x="{x:g}" y="{y + 4:g}">{place}</text>'
    return f'<g class="mark {kind}" tabindex="0" role="img" aria-label="{title}"><title>{title}</title>{shape}</g>'


def _words(tree: CodeTree, marked: list[tuple[str, list[int]]]) -> str:
    """The marked items by their first codes, as text."""
    lines: dict[int, list[str]] = {}
    for kind, rows in marked:
        for place, row in enumerate(rows, start=1):
            lines.setdefault(int(tree.codes[row, 0]), []).append(f"{kind} {place}, {tree.titles[row]}")
    if not lines:
        return '<p class="quiet">Choose a history, and recommend: both are marked here.</p>'
    entries = "".join(
        f'<dt><i class="swatch" style="background: {color_of(code)}"></i>First code {code}</dt>'
        f"<dd>{escape('; '.join(found))}</dd>"
        for code, found in sorted(lines.items())
    )
    return f"<details><summary>The marked items in words</summary><dl>{entries}</dl></details>"
