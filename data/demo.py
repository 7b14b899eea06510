"""A made-up shop: a few thousand products with readable titles, and shoppers whose taste drifts.

    python data/demo.py --out datasets/demo [--seed 0]

For trying out, teaching and testing without a download. What a shopper buys next follows from what was bought before,
in ways that the product text shows: a tent calls for a sleeping bag, often of the same brand and series, in a similar
price band; now and then the shopper wanders to a neighboring department. So popularity alone does badly, and a model
that reads histories and texts does well. A part of the range is launched during the two years, so that there are cold
items too.

Every word, brand and number is made up here. The simulation uses whole numbers and exact random draws only (no
logarithms or exponentials, which differ in the last bit between processors): a seed gives the same shop everywhere,
and the same bytes for the same numpy and pyarrow.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from demo_products import (
    ADJECTIVES,
    COLOURS,
    FIRST_SYLLABLES,
    LAST_SYLLABLES,
    MIDDLE_SYLLABLES,
    NEIGHBOURS,
    SERIES,
    ProductTypes,
    product_types,
)

from tiger.data.dataset_card import write_dataset_card
from tiger.utils.files import written_together

SECONDS_PER_DAY = 86_400
FIRST_DAY = 18_993  # 1 January 2022, in days since 1970
NUM_DAYS = 730
MIN_EVENTS, MAX_EVENTS = 5, 30
OWNED_CELLS = 1 << 24  # users x items that are simulated at a time: one byte each

BRANDS_PER_DEPARTMENT = 8
SERIES_PER_BRAND = 3
TIER_PERCENT = [55, 85, 125, 190]  # a brand's price level, in percent of the typical price

# How the next product type is chosen, in percent, once no direct companion was taken.
COMPANION, SUCCESSOR, SAME_TYPE, SAME_DEPARTMENT, NEIGHBOUR = 15, 58, 10, 16, 10  # the rest: anywhere
# Weights of a candidate, multiplied: brand and series of the current interest, and price tiers 0 to 3 steps away.
BRAND_WEIGHT, SERIES_WEIGHT = 6, 3
TIER_WEIGHTS = np.array([6, 3, 1, 1], dtype=np.int64)


@dataclass(frozen=True)
class _Catalogue:
    """N items; all arrays int64 [N] unless said otherwise."""

    ids: list[str]
    titles: list[str]
    types: np.ndarray
    brands: np.ndarray
    series: np.ndarray
    tiers: np.ndarray
    cents: np.ndarray
    popularity: np.ndarray
    launched: np.ndarray  # day of the simulation from which it can be bought
    companions: np.ndarray  # [N, 2], the items that "go with" it
    brand_names: list[str]
    shelves: np.ndarray  # [T, widest], the items of each type, -1 beyond the last


def write_demo(out: str | os.PathLike, num_items: int = 2_400, num_users: int = 6_000, seed: int = 0) -> None:
    """Write ``items.parquet`` and ``interactions.parquet`` of a made-up shop into ``out``.

    Items have ``title``, ``brand``, ``categories`` ("A > B > C") and ``price`` (dollars), sorted by an id that tells
    nothing of them. Users have 5 to 30 events (9 on average), none twice the same item, each with a ``timestamp`` in
    seconds (2022 and 2023) and a ``rating`` from 1 to 5. Both files appear whole or not at all.

    Args:
        out: the dataset directory, made if needed.
        num_items: at least 100.
        num_users: at least 1.
        seed: another shop for another seed.

    Raises:
        ValueError: too few items or users.
    """
    if num_items < 100 or num_users < 1:
        raise ValueError(f"need 100 items or more and a user, got {num_items} and {num_users}")
    rng = np.random.Generator(np.random.PCG64(seed))
    types = product_types()
    catalogue = _catalogue(types, num_items, seed, rng)
    lengths = _lengths(num_users, rng)
    timestamps = _timestamps(lengths, rng)
    chunk = max(1, OWNED_CELLS // num_items)
    chunks = [slice(start, start + chunk) for start in range(0, num_users, chunk)]
    chosen = np.concatenate([_simulate(types, catalogue, lengths[c], timestamps[c], rng) for c in chunks])
    items, interactions = _tables(types, catalogue, chosen, timestamps, seed, rng)
    tables = {"items.parquet": items, "interactions.parquet": interactions}
    with written_together(out, tuple(tables)) as scratch:
        for name, table in tables.items():
            pq.write_table(table, scratch / name)
    write_dataset_card(Path(out), Path(out).name)


def _catalogue(types: ProductTypes, num_items: int, seed: int, rng: np.random.Generator) -> _Catalogue:
    num_brands = BRANDS_PER_DEPARTMENT * len(NEIGHBOURS)
    item_types = np.sort(np.arange(num_items) % len(types.nouns))
    # A department's brands share its shelves unevenly: 8, 7, ... 1 parts.
    parts = np.arange(BRANDS_PER_DEPARTMENT, 0, -1)
    brands = types.departments[item_types] * BRANDS_PER_DEPARTMENT + _pick(
        np.broadcast_to(parts, (num_items, len(parts))), rng
    )
    series = rng.integers(0, SERIES_PER_BRAND, num_items)
    brand_tiers = rng.integers(0, len(TIER_PERCENT), num_brands)
    tiers = brand_tiers[brands]
    dollars = types.prices[item_types] * np.array(TIER_PERCENT)[tiers] * rng.integers(80, 121, num_items) // 10_000
    cents = np.maximum(dollars, 2) * 100 - rng.choice(np.array([1, 5, 50, 0]), num_items)
    # Close to Zipf's law within a type: ranks from 0 drawn at random, weights 1/(rank + 4).
    popularity = np.maximum(1_000_000 // (_ranks_within(item_types, rng) + 4), 1)
    launched = np.where(rng.integers(0, 100, num_items) < 40, rng.integers(0, NUM_DAYS, num_items), 0)
    shelves = _shelves(item_types, len(types.nouns))
    brand_names = _brand_names(num_brands, rng)
    return _Catalogue(
        ids=_ids("item", num_items, seed),
        titles=_titles(types, item_types, brands, series, brand_names, rng),
        types=item_types,
        brands=brands,
        series=series,
        tiers=tiers,
        cents=cents,
        popularity=popularity,
        launched=launched,
        companions=_companions(types, item_types, brands, series, tiers, shelves, rng),
        brand_names=brand_names,
        shelves=shelves,
    )


def _companions(
    types: ProductTypes,
    item_types: np.ndarray,
    brands: np.ndarray,
    series: np.ndarray,
    tiers: np.ndarray,
    shelves: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """One item of each of the two likeliest next types, most often of the same brand and series; int64 [N, 2]."""
    columns = []
    for choice in range(2):
        candidates = shelves[types.successors[item_types, choice]]
        weights = np.where(candidates >= 0, 1, 0)
        same_brand = brands[candidates] == brands[:, None]
        weights *= np.where(same_brand, 40, 1)
        weights *= np.where(same_brand & (series[candidates] == series[:, None]), 5, 1)
        weights *= TIER_WEIGHTS[np.abs(tiers[candidates] - tiers[:, None])]
        columns.append(candidates[np.arange(len(item_types)), _pick(weights, rng)])
    return np.stack(columns, axis=1)


def _brand_names(count: int, rng: np.random.Generator) -> list[str]:
    """Made-up names, no two the same, put together from syllables."""
    firsts, middles, lasts = (
        rng.permutation(np.array(s)) for s in (FIRST_SYLLABLES, MIDDLE_SYLLABLES, LAST_SYLLABLES)
    )
    names = []
    for number in range(count):
        turn = number // len(firsts)
        middle = middles[(number + 3 * turn) % len(middles)]
        names.append(f"{firsts[number % len(firsts)]}{middle}{lasts[(number + 5 * turn) % len(lasts)]}")
    return names


def _titles(
    types: ProductTypes,
    item_types: np.ndarray,
    brands: np.ndarray,
    series: np.ndarray,
    brand_names: list[str],
    rng: np.random.Generator,
) -> list[str]:
    """``Brand Series Adjective Material Noun, Variant, Colour``; a title that exists already gets a number."""
    series_names = np.stack([rng.permutation(len(SERIES))[:SERIES_PER_BRAND] for _ in brand_names])
    draws = rng.integers(0, 2**31, (len(item_types), 4))
    seen: dict[str, int] = {}
    titles = []
    for kind, brand, line, draw in zip(item_types, brands, series, draws.tolist()):
        words = (ADJECTIVES, types.materials[kind], types.variants[kind], COLOURS)
        adjective, material, variant, colour = (options[n % len(options)] for options, n in zip(words, draw))
        name = f"{brand_names[brand]} {SERIES[series_names[brand, line]]}"
        title = f"{name} {adjective} {material} {types.nouns[kind]}, {variant}, {colour}"
        seen[title] = seen.get(title, 0) + 1
        titles.append(title if seen[title] == 1 else f"{title}, No. {seen[title]}")
    return titles


def _ids(kind: str, count: int, seed: int) -> list[str]:
    """Short hashes: stable, and without a hint of the order in which they were made."""
    ids: dict[str, None] = {}
    attempt = 0
    while len(ids) < count:  # more attempts than ids only where two hashes are alike
        ids[hashlib.blake2b(f"{seed}/{kind}/{attempt}".encode(), digest_size=5).hexdigest()] = None
        attempt += 1
    return list(ids)


def _ranks_within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random rank from 0 within each group; ``groups`` is sorted, int64 [N]."""
    order = np.lexsort((rng.permutation(len(groups)), groups))
    starts = np.searchsorted(groups, groups)
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - starts
    return ranks


def _shelves(item_types: np.ndarray, num_types: int) -> np.ndarray:
    counts = np.bincount(item_types, minlength=num_types)
    shelves = np.full((num_types, counts.max()), -1, dtype=np.int64)
    shelves[item_types, np.arange(len(item_types)) - np.searchsorted(item_types, item_types)] = np.arange(
        len(item_types)
    )
    return shelves


def _pick(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A column for each row, with odds as the whole numbers ``weights`` [n, columns]; -1 where a row is all zero."""
    sums = np.cumsum(weights, axis=1)
    total = sums[:, -1]
    draw = rng.integers(0, np.maximum(total, 1))
    return np.where(total > 0, (sums <= draw[:, None]).sum(axis=1), -1)


def _lengths(num_users: int, rng: np.random.Generator) -> np.ndarray:
    """Events of each user, int64: 5 and a geometric tail with mean 4, 30 at most."""
    goes_on = rng.integers(0, 100, (num_users, MAX_EVENTS - MIN_EVENTS)) < 80
    return MIN_EVENTS + np.cumprod(goes_on, axis=1).sum(axis=1)


def _timestamps(lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seconds since 1970, int64 [users, MAX_EVENTS], rising; a third of the events follow within the hour."""
    shape = (len(lengths), MAX_EVENTS)
    days = np.where(rng.integers(0, 100, shape) < 35, 0, rng.integers(1, 8, shape) * rng.integers(1, 8, shape))
    days[:, 0] = 0
    days = np.cumsum(days, axis=1)
    span = days[np.arange(len(lengths)), lengths - 1]
    scale = np.maximum(span, NUM_DAYS - 1)  # the few that would last longer are squeezed into two years
    days = days * (NUM_DAYS - 1) // scale[:, None]
    span = span * (NUM_DAYS - 1) // scale
    days += rng.integers(0, NUM_DAYS - span)[:, None]
    # Morning to evening: at most 30 events of 20 minutes after 13:59 end before midnight.
    visit = rng.integers(7 * 3600, 14 * 3600, shape)
    starts_visit = np.diff(days, axis=1, prepend=-1) > 0
    first = np.maximum.accumulate(np.where(starts_visit, np.arange(MAX_EVENTS), 0), axis=1)
    pauses = np.cumsum(rng.integers(60, 1200, shape), axis=1)
    within = np.take_along_axis(visit, first, 1) + pauses - np.take_along_axis(pauses, first, 1)
    return (FIRST_DAY + days) * SECONDS_PER_DAY + within


def _simulate(
    types: ProductTypes,
    catalogue: _Catalogue,
    lengths: np.ndarray,
    timestamps: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Items of each user in order, int64 [users, MAX_EVENTS], -1 beyond a user's length.

    A user's state is a product type, a brand with a series, and a price tier. At each step the user takes a companion
    of the last item, or moves to a next type and picks there by brand, series, price and popularity; the item picked
    then pulls brand and tier along.
    """
    num_users, num_items = len(lengths), len(catalogue.types)
    chosen = np.full((num_users, MAX_EVENTS), -1, dtype=np.int64)
    owned = np.zeros((num_users, num_items), dtype=bool)
    kind = rng.integers(0, len(types.nouns), num_users)
    tier = rng.integers(0, len(TIER_PERCENT), num_users)
    brand = np.full(num_users, -1, dtype=np.int64)
    series = np.full(num_users, -1, dtype=np.int64)
    everyone = np.arange(num_users)
    for step in range(int(lengths.max())):
        day = timestamps[:, step] // SECONDS_PER_DAY - FIRST_DAY
        if step:
            kind = _next_type(types, kind, rng)
        candidates = catalogue.shelves[kind]
        weights = np.where(candidates >= 0, catalogue.popularity[candidates], 0)
        same_brand = catalogue.brands[candidates] == brand[:, None]
        weights *= np.where(same_brand, BRAND_WEIGHT, 1)
        weights *= np.where(same_brand & (catalogue.series[candidates] == series[:, None]), SERIES_WEIGHT, 1)
        weights *= TIER_WEIGHTS[np.abs(catalogue.tiers[candidates] - tier[:, None])]
        weights *= (catalogue.launched[candidates] <= day[:, None]) & ~owned[everyone[:, None], candidates]
        column = _pick(weights, rng)
        item = candidates[everyone, column]
        for user in np.flatnonzero(column < 0):  # an empty shelf: anything that is left
            free = np.where((catalogue.launched <= day[user]) & ~owned[user], catalogue.popularity, 0)
            item[user] = _pick(free[None], rng)[0]
        if step:
            companion = catalogue.companions[chosen[:, step - 1], rng.integers(0, 2, num_users)]
            free = (companion >= 0) & (catalogue.launched[companion] <= day) & ~owned[everyone, companion]
            taken = free & (rng.integers(0, 100, num_users) < COMPANION)
            item = np.where(taken, companion, item)
        chosen[:, step] = item
        owned[everyone, item] = True
        kind = catalogue.types[item]
        # Taste drifts: the new item's brand is adopted half of the time, its price tier a third of it.
        adopts = (brand < 0) | (rng.integers(0, 100, num_users) < 50)
        brand = np.where(adopts, catalogue.brands[item], brand)
        series = np.where(adopts, catalogue.series[item], series)
        tier = np.where(rng.integers(0, 100, num_users) < 33, catalogue.tiers[item], tier)
    chosen[np.arange(MAX_EVENTS) >= lengths[:, None]] = -1
    return chosen


def _next_type(types: ProductTypes, kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Most often a successor; else the same type, its department, a neighboring one, or anything."""
    users = len(kind)
    draw = rng.integers(0, 100, users)
    successor = types.successors[kind, np.array([0, 0, 0, 1, 1, 2])[rng.integers(0, 6, users)]]
    department = types.departments[kind]
    near = types.neighbours[department, rng.integers(0, 2, users)]
    limits = np.cumsum([SUCCESSOR, SAME_TYPE, SAME_DEPARTMENT, NEIGHBOUR])
    elsewhere = rng.integers(0, len(types.nouns), users)
    choices = [successor, kind, _type_of(types, department, rng), _type_of(types, near, rng)]
    return np.select([draw < limit for limit in limits], choices, elsewhere)


def _type_of(types: ProductTypes, departments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A product type of each of these departments; types of a department are neighbors in the table."""
    starts = np.searchsorted(types.departments, departments)
    ends = np.searchsorted(types.departments, departments, side="right")
    return rng.integers(starts, ends)


def _tables(
    types: ProductTypes,
    catalogue: _Catalogue,
    chosen: np.ndarray,
    timestamps: np.ndarray,
    seed: int,
    rng: np.random.Generator,
) -> tuple[pa.Table, pa.Table]:
    order = np.argsort(np.array(catalogue.ids))
    brands = [catalogue.brand_names[brand] for brand in catalogue.brands]
    items = pa.table(
        {
            "item_id": pa.array(catalogue.ids),
            "title": pa.array(catalogue.titles),
            "brand": pa.array(brands),
            "categories": pa.array([types.paths[kind] for kind in catalogue.types]),
            "price": pa.array(catalogue.cents / 100),
        }
    ).take(pa.array(order))
    bought = chosen >= 0
    item = chosen[bought]
    # Tenths of a star: the brand's share can be known from the text, the item's own can't.
    quality = rng.integers(26, 46, len(catalogue.brand_names))[catalogue.brands]
    quality = quality + rng.integers(-4, 5, len(quality))
    ratings = np.clip((quality[item] + rng.integers(-10, 11, len(item)) + 5) // 10, 1, 5)
    interactions = pa.table(
        {
            "user_id": pa.array(_ids("user", len(chosen), seed)).take(pa.array(np.nonzero(bought)[0])),
            "item_id": pa.array(catalogue.ids).take(pa.array(item)),
            "timestamp": pa.array(timestamps[bought]),
            "rating": pa.array(ratings.astype(np.float32)),
        }
    )
    return items, interactions


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write a made-up shop as a dataset directory.")
    parser.add_argument("--out", type=Path, required=True, help="dataset directory to write")
    parser.add_argument("--num-items", type=int, default=2_400, help="default: %(default)s")
    parser.add_argument("--num-users", type=int, default=6_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="another shop for another seed (default: 0)")
    args = parser.parse_args(argv)
    try:
        write_demo(args.out, args.num_items, args.num_users, args.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {args.num_items:,} items, {args.num_users:,} users")
    return 0


if __name__ == "__main__":
    sys.exit(main())
