"""A made-up shop: a few thousand products with readable titles, and shoppers whose taste drifts.

    python data/demo.py --out datasets/demo [--seed 0]

For trying out, teaching and testing without a download. What a shopper buys next follows from what was bought before,
in ways that the product text shows: a tent calls for a sleeping bag, often of the same brand and series, in a similar
price band; now and then the shopper wanders to a neighbouring department. So popularity alone does badly, and a model
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

from tiger.files import written_together

SECONDS_PER_DAY = 86_400
FIRST_DAY = 18_993  # 1 January 2022, in days since 1970
NUM_DAYS = 730
MIN_EVENTS, MAX_EVENTS = 5, 30
OWNED_CELLS = 1 << 24  # users x items that are simulated at a time: one byte each

# One product type a line: department > category | noun | typical price in dollars | variants | materials |
# what people go on to buy, the likeliest first.
PRODUCT_TYPES = """
Outdoor > Camping | Tent | 160 | 2-Person, 3-Person, 4-Person | Ripstop, Canvas | Sleeping Bag, Camp Lantern, Backpack
Outdoor > Camping | Sleeping Bag | 80 | Summer, Three-Season, Winter | Down, Fleece | Sleeping Mat, Camp Lantern
Outdoor > Camping | Sleeping Mat | 45 | Short, Regular, Wide | Foam, Air | Camp Stove, Camp Lantern
Outdoor > Camping | Camp Lantern | 30 | 200 Lumen, 400 Lumen | Steel, Plastic | Camp Stove, Headlamp
Outdoor > Camping | Camp Stove | 55 | One Burner, Two Burner | Steel, Aluminium | Mess Kit, Water Bottle
Outdoor > Camping | Mess Kit | 28 | for One, for Two, for Four | Titanium, Enamel | Water Bottle, Backpack
Outdoor > Hiking | Backpack | 95 | 20 L, 35 L, 60 L | Nylon, Canvas | Trekking Poles, Rain Jacket, Water Bottle
Outdoor > Hiking | Trekking Poles | 50 | Folding, Telescopic | Carbon, Aluminium | Hiking Boots, Rain Jacket
Outdoor > Hiking | Hiking Boots | 120 | Low, Mid, High | Leather, Mesh | Wool Socks, Rain Jacket
Outdoor > Hiking | Rain Jacket | 90 | Light, Lined | Nylon, Waxed Cotton | Wool Socks, Backpack
Outdoor > Hiking | Wool Socks | 18 | Ankle, Crew, Knee | Merino, Wool Blend | Hiking Boots, Headlamp
Outdoor > Hiking | Water Bottle | 22 | 500 ml, 750 ml, 1 L | Steel, Glass | Headlamp, Backpack
Outdoor > Hiking | Headlamp | 35 | Compact, Long Range | Aluminium, Plastic | Tent, Trekking Poles
Kitchen > Cookware | Frying Pan | 48 | 20 cm, 24 cm, 28 cm | Cast Iron, Steel, Ceramic | Saucepan, Spatula
Kitchen > Cookware | Saucepan | 52 | 1 L, 2 L, 3 L | Steel, Copper | Stockpot, Wooden Spoon
Kitchen > Cookware | Stockpot | 70 | 5 L, 8 L, 12 L | Steel, Enamel | Wooden Spoon, Chef Knife
Kitchen > Cookware | Spatula | 12 | Slim, Wide | Silicone, Beech | Wooden Spoon, Chef Knife
Kitchen > Cookware | Wooden Spoon | 9 | Short, Long | Beech, Olive Wood | Mixing Bowl, Spatula
Kitchen > Knives | Chef Knife | 85 | 18 cm, 20 cm, 24 cm | Steel, Damascus Steel | Cutting Board, Paring Knife
Kitchen > Knives | Paring Knife | 25 | Straight, Curved | Steel, Ceramic | Knife Sharpener, Cutting Board
Kitchen > Knives | Cutting Board | 32 | Small, Medium, Large | Bamboo, Walnut | Knife Sharpener, Frying Pan
Kitchen > Knives | Knife Sharpener | 28 | Two-Stage, Whetstone | Ceramic, Diamond | Chef Knife, Saucepan
Kitchen > Baking | Mixing Bowl | 24 | 2 L, 4 L | Steel, Glass | Whisk, Kitchen Scale
Kitchen > Baking | Whisk | 11 | Balloon, Flat | Steel, Silicone | Cake Tin, Kitchen Scale
Kitchen > Baking | Cake Tin | 19 | 20 cm, 24 cm, Loaf | Steel, Ceramic | Rolling Pin, Kitchen Scale
Kitchen > Baking | Rolling Pin | 16 | Straight, Tapered | Beech, Marble | Cake Tin, Mixing Bowl
Kitchen > Baking | Kitchen Scale | 30 | 5 kg, 10 kg | Glass, Steel | Mixing Bowl, Coffee Grinder
Coffee and Tea > Coffee | Coffee Grinder | 75 | Hand, Electric | Steel, Walnut | Pour-Over Dripper, Moka Pot
Coffee and Tea > Coffee | Pour-Over Dripper | 26 | One Cup, Four Cup | Ceramic, Glass | Gooseneck Kettle, Paper Filters
Coffee and Tea > Coffee | Gooseneck Kettle | 65 | 600 ml, 900 ml | Steel, Copper | Paper Filters, Travel Mug
Coffee and Tea > Coffee | Paper Filters | 8 | 40 Pack, 100 Pack | Bleached, Unbleached | Travel Mug, Moka Pot
Coffee and Tea > Coffee | Moka Pot | 38 | 3 Cup, 6 Cup | Aluminium, Steel | Milk Frother, Coffee Grinder
Coffee and Tea > Coffee | Milk Frother | 29 | Hand, Jug | Steel, Plastic | Travel Mug, Teapot
Coffee and Tea > Coffee | Travel Mug | 27 | 300 ml, 450 ml | Steel, Ceramic | Water Bottle, Milk Frother
Coffee and Tea > Tea | Teapot | 40 | 600 ml, 1 L | Cast Iron, Porcelain, Glass | Tea Infuser, Tea Cups
Coffee and Tea > Tea | Tea Infuser | 12 | Basket, Ball | Steel, Silicone | Tea Tin, Tea Cups
Coffee and Tea > Tea | Tea Tin | 14 | 100 g, 250 g | Steel, Birch | Tea Cups, Gooseneck Kettle
Coffee and Tea > Tea | Tea Cups | 33 | Set of 2, Set of 4 | Porcelain, Stoneware | Teapot, Tea Tin
Desk > Writing | Fountain Pen | 60 | Fine Nib, Medium Nib | Brass, Resin | Bottled Ink, Notebook
Desk > Writing | Bottled Ink | 15 | 30 ml, 50 ml | Dye, Pigment | Notebook, Pen Case
Desk > Writing | Notebook | 18 | A5, A6, B5 | Ruled, Dotted | Pen Case, Mechanical Pencil
Desk > Writing | Mechanical Pencil | 14 | 0.5 mm, 0.7 mm | Brass, Plastic | Notebook, Desk Lamp
Desk > Writing | Pen Case | 24 | for Two, for Six | Leather, Canvas | Fountain Pen, Mechanical Pencil
Desk > Workplace | Desk Lamp | 58 | Clamp, Standing | Steel, Oak | Laptop Stand, Desk Mat
Desk > Workplace | Laptop Stand | 42 | Fixed, Folding | Aluminium, Walnut | Keyboard, Desk Mat
Desk > Workplace | Keyboard | 90 | Compact, Full Size | Aluminium, Plastic | Mouse, Wrist Rest
Desk > Workplace | Mouse | 45 | Wired, Wireless | Plastic, Rubber | Desk Mat, Wrist Rest
Desk > Workplace | Desk Mat | 30 | 60 cm, 90 cm | Felt, Leather, Cork | Wrist Rest, Desk Lamp
Desk > Workplace | Wrist Rest | 20 | Compact, Full Size | Walnut, Gel | Keyboard, Tea Cups
Garden > Planting | Planter | 34 | 20 cm, 30 cm, 40 cm | Terracotta, Zinc | Potting Soil, Watering Can
Garden > Planting | Potting Soil | 16 | 10 L, 20 L | Peat-Free, Cactus Mix | Seed Packet, Watering Can
Garden > Planting | Seed Packet | 5 | Herb, Vegetable, Wildflower | Organic, Classic | Watering Can, Hand Trowel
Garden > Planting | Watering Can | 29 | 2 L, 5 L, 10 L | Zinc, Plastic | Plant Food, Garden Gloves
Garden > Planting | Plant Food | 13 | 500 ml, 1 L | Seaweed, Mineral | Planter, Seed Packet
Garden > Tools | Hand Trowel | 17 | Narrow, Broad | Steel, Copper | Garden Gloves, Pruning Shears
Garden > Tools | Garden Gloves | 14 | Small, Medium, Large | Leather, Bamboo | Pruning Shears, Hand Trowel
Garden > Tools | Pruning Shears | 39 | Bypass, Anvil | Steel, Titanium | Garden Fork, Garden Kneeler
Garden > Tools | Garden Fork | 46 | Border, Digging | Steel, Ash | Garden Kneeler, Planter
Garden > Tools | Garden Kneeler | 27 | Pad, Bench | Foam, Steel | Planter, Bird Feeder
Garden > Wildlife | Bird Feeder | 25 | Hanging, Window | Steel, Cedar | Bird Seed, Nest Box
Garden > Wildlife | Bird Seed | 12 | 1 kg, 3 kg | Sunflower, Mixed | Nest Box, Bird Bath
Garden > Wildlife | Nest Box | 31 | Small Hole, Open Front | Cedar, Pine | Bird Bath, Bird Feeder
Garden > Wildlife | Bird Bath | 55 | Ground, Pedestal | Stone, Copper | Bird Seed, Headlamp
Music > Guitar | Acoustic Guitar | 220 | Parlour, Concert | Spruce, Cedar | Guitar Strings, Guitar Strap
Music > Guitar | Guitar Strings | 13 | Light, Medium | Bronze, Nylon | Clip-On Tuner, Guitar Picks
Music > Guitar | Clip-On Tuner | 19 | Chromatic, Guitar | Plastic, Aluminium | Capo, Guitar Picks
Music > Guitar | Guitar Picks | 8 | Thin, Medium, Heavy | Celluloid, Felt | Capo, Guitar Strings
Music > Guitar | Capo | 18 | Spring, Screw | Aluminium, Brass | Guitar Strap, Music Stand
Music > Guitar | Guitar Strap | 26 | Narrow, Wide | Leather, Cotton | Guitar Strings, Music Stand
Music > Studio | Music Stand | 37 | Folding, Fixed | Steel, Beech | Metronome, Headphones
Music > Studio | Metronome | 34 | Wind-Up, Digital | Walnut, Plastic | Headphones, Notebook
Music > Studio | Headphones | 130 | Open, Closed | Leather, Velour | Audio Interface, Headphone Stand
Music > Studio | Audio Interface | 150 | 2 Channel, 4 Channel | Aluminium, Steel | Microphone, Headphone Stand
Music > Studio | Microphone | 110 | Dynamic, Condenser | Steel, Brass | Headphone Stand, Audio Interface
Music > Studio | Headphone Stand | 28 | Single, Double | Walnut, Aluminium | Desk Mat, Headphones
"""
# Departments that shoppers wander between, nearest first.
NEIGHBOURS = {
    "Outdoor": ["Garden", "Coffee and Tea"],
    "Kitchen": ["Coffee and Tea", "Garden"],
    "Coffee and Tea": ["Kitchen", "Desk"],
    "Desk": ["Music", "Coffee and Tea"],
    "Garden": ["Outdoor", "Kitchen"],
    "Music": ["Desk", "Outdoor"],
}
BRANDS_PER_DEPARTMENT = 8
SERIES_PER_BRAND = 3
FIRST_SYLLABLES = "Bra Dor Eld Fen Gar Hal Ist Kel Lum Mor Nes Orl Pel Quil Ros Sel Tam Ulf Vas Wen Yar Zel".split()
MIDDLE_SYLLABLES = "da ve li no ru ska ta mi".split()
LAST_SYLLABLES = "borne dell fold grove holt lund mere rick stowe vane wyn zan".split()
SERIES = (
    "Alder Amber Anchor Aspen Basalt Beacon Birch Bramble Cinder Cobalt Compass Coral Cove Crest Dune Dusk Ember "
    "Fable Falcon Fern Fjord Flint Glade Granite Harbour Hazel Heron Hollow Juniper Lark Linden Maple Meadow Mistral "
    "Moss Nettle North Orchard Otter Pebble Quarry Raven Reed Rowan Sable Sierra Sparrow Summit Thistle Tidal"
).split()
ADJECTIVES = "Classic Everyday Essential Original Premium Heritage Studio Pocket Signature Simple Sturdy Quiet".split()
COLOURS = "Black, White, Grey, Red, Navy, Forest Green, Sand, Teal, Mustard, Plum, Copper, Sky Blue".split(", ")
TIER_PERCENT = [55, 85, 125, 190]  # a brand's price level, in percent of the typical price

# How the next product type is chosen, in percent, once no direct companion was taken.
COMPANION, SUCCESSOR, SAME_TYPE, SAME_DEPARTMENT, NEIGHBOUR = 15, 58, 10, 16, 10  # the rest: anywhere
# Weights of a candidate, multiplied: brand and series of the current interest, and price tiers 0 to 3 steps away.
BRAND_WEIGHT, SERIES_WEIGHT = 6, 3
TIER_WEIGHTS = np.array([6, 3, 1, 1], dtype=np.int64)


@dataclass(frozen=True)
class _ProductTypes:
    """The table above in numbers; T product types, D departments."""

    paths: list[str]
    nouns: list[str]
    prices: np.ndarray  # int64 [T], dollars
    variants: list[list[str]]
    materials: list[list[str]]
    successors: np.ndarray  # int64 [T, 3], the likeliest first; short lists repeat their first
    departments: np.ndarray  # int64 [T]
    neighbours: np.ndarray  # int64 [D, 2]


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
    types = _product_types()
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


def _product_types() -> _ProductTypes:
    rows = [[cell.strip() for cell in line.split("|")] for line in PRODUCT_TYPES.strip().splitlines()]
    numbers = {row[1]: number for number, row in enumerate(rows)}
    names = list(NEIGHBOURS)
    successors = [[numbers[noun] for noun in row[5].split(", ")] for row in rows]
    return _ProductTypes(
        paths=[f"{row[0]} > {row[1]}" for row in rows],
        nouns=[row[1] for row in rows],
        prices=np.array([int(row[2]) for row in rows], dtype=np.int64),
        variants=[row[3].split(", ") for row in rows],
        materials=[row[4].split(", ") for row in rows],
        successors=np.array([(row + row[:1])[:3] for row in successors], dtype=np.int64),
        departments=np.array([names.index(row[0].split(" > ")[0]) for row in rows], dtype=np.int64),
        neighbours=np.array([[names.index(n) for n in near] for near in NEIGHBOURS.values()], dtype=np.int64),
    )


def _catalogue(types: _ProductTypes, num_items: int, seed: int, rng: np.random.Generator) -> _Catalogue:
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
    types: _ProductTypes,
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
    types: _ProductTypes,
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
    types: _ProductTypes,
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


def _next_type(types: _ProductTypes, kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Most often a successor; else the same type, its department, a neighbouring one, or anything."""
    users = len(kind)
    draw = rng.integers(0, 100, users)
    successor = types.successors[kind, np.array([0, 0, 0, 1, 1, 2])[rng.integers(0, 6, users)]]
    department = types.departments[kind]
    near = types.neighbours[department, rng.integers(0, 2, users)]
    limits = np.cumsum([SUCCESSOR, SAME_TYPE, SAME_DEPARTMENT, NEIGHBOUR])
    elsewhere = rng.integers(0, len(types.nouns), users)
    choices = [successor, kind, _type_of(types, department, rng), _type_of(types, near, rng)]
    return np.select([draw < limit for limit in limits], choices, elsewhere)


def _type_of(types: _ProductTypes, departments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A product type of each of these departments; types of a department are neighbours in the table."""
    starts = np.searchsorted(types.departments, departments)
    ends = np.searchsorted(types.departments, departments, side="right")
    return rng.integers(starts, ends)


def _tables(
    types: _ProductTypes,
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
