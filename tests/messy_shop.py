"""A small shop's export as it comes: a catalog and a log with every trap that an import has to see."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

KINDS = ("Tent", "Stove", "Lantern", "Backpack", "Mat", "Knife")
MAKERS = ("Acme", "Nord &amp; Co", "Polar")
# Ids that a spreadsheet, or a careless reader, turns into numbers and times.
TRAPS = ("007", "1e5", "23:59", "0x1F", "1_000", "NA")
ITEMS, USERS, UNKNOWN = 48, 150, "discontinued-9"
START = datetime(2024, 3, 1, tzinfo=UTC)


def item_ids() -> list[str]:
    """Ids of the catalog."""
    return [*TRAPS, *(f"{number:04d}" for number in range(ITEMS - len(TRAPS)))]


def write_items(file: Path) -> None:
    """The catalog: byte order mark, blanks in the header, HTML, currencies, pictures, categories by another name."""
    lines = ["\ufeff SKU , Product Name ,Price, Dept ,Picture"]
    for row, item in enumerate(item_ids()):
        kind, maker = KINDS[row % len(KINDS)], MAKERS[row // len(KINDS) % len(MAKERS)]
        title = f'"<b>{kind}</b> by {maker}, no. {row}"'
        price = f'"$1,2{row:02d}.99"' if row % 5 == 0 else f"${row}.99"
        lines.append(f"{item},{title},{price},Outdoor > {kind},https://img.example.com/{row}.jpg")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_events(file: Path, milliseconds: bool = False) -> dict[str, int]:
    """The log: users like one kind of item at a time. Has duplicates, a user with one event, and three events that no
    import can take: of an unknown item, without a user, and without a time.

    Args:
        milliseconds: since 1970, instead of ISO.

    Returns:
        Number of events, of those that can be read, of duplicates.
    """
    draw, rows = random.Random(0), []
    ids = item_ids()
    for user in range(USERS):
        at, kind = START + timedelta(minutes=11 * user), draw.randrange(len(KINDS))
        for turn in range(draw.randint(5, 9)):
            if turn == 4:
                kind = (kind + 1) % len(KINDS)
            rows.append((f"visitor {user}", ids[kind + len(KINDS) * draw.randrange(ITEMS // len(KINDS))], at))
            at += timedelta(hours=draw.randint(1, 60), seconds=draw.randint(0, 59))
    duplicates = rows[10:300:29]
    rows += duplicates + [("once", ids[0], START)]
    wrong = [("visitor 3", UNKNOWN, START), ("", ids[1], START), ("visitor 4", ids[2], None)]

    def stamp(at: datetime | None) -> str:
        if at is None:
            return "soon"
        return str(int(at.timestamp() * 1000)) if milliseconds else at.strftime("%Y-%m-%dT%H:%M:%SZ")

    lines = ["visitor, SKU ,event_time", *(f"{user},{item},{stamp(at)}" for user, item, at in rows + wrong)]
    file.write_text("\n".join(lines) + "\n")
    return {"events": len(rows) + len(wrong), "good": len(rows), "duplicates": len(duplicates)}
