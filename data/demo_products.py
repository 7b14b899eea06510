"""What the made-up shop sells: product types with what follows them, and the words of brands and titles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class ProductTypes:
    """The table above in numbers; T product types, D departments."""

    paths: list[str]
    nouns: list[str]
    prices: np.ndarray  # int64 [T], dollars
    variants: list[list[str]]
    materials: list[list[str]]
    successors: np.ndarray  # int64 [T, 3], the likeliest first; short lists repeat their first
    departments: np.ndarray  # int64 [T]
    neighbours: np.ndarray  # int64 [D, 2]


def product_types() -> ProductTypes:
    rows = [[cell.strip() for cell in line.split("|")] for line in PRODUCT_TYPES.strip().splitlines()]
    numbers = {row[1]: number for number, row in enumerate(rows)}
    names = list(NEIGHBOURS)
    successors = [[numbers[noun] for noun in row[5].split(", ")] for row in rows]
    return ProductTypes(
        paths=[f"{row[0]} > {row[1]}" for row in rows],
        nouns=[row[1] for row in rows],
        prices=np.array([int(row[2]) for row in rows], dtype=np.int64),
        variants=[row[3].split(", ") for row in rows],
        materials=[row[4].split(", ") for row in rows],
        successors=np.array([(row + row[:1])[:3] for row in successors], dtype=np.int64),
        departments=np.array([names.index(row[0].split(" > ")[0]) for row in rows], dtype=np.int64),
        neighbours=np.array([[names.index(n) for n in near] for near in NEIGHBOURS.values()], dtype=np.int64),
    )
