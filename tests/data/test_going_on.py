"""Logs that go on from another one, as recorded facts of that say."""

import pyarrow as pa

from tiger.data.dataset import RecommendationData
from tiger.data.identity import lacks_events_of, log_summary

DAY = 86_400


def log_of(*events: tuple[str, str, float]) -> RecommendationData:
    """Data of these events: user, item, day."""
    users, items, days = zip(*events)
    log = {"user_id": users, "item_id": items, "timestamp": [int(day * DAY) for day in days]}
    return RecommendationData.from_tables(pa.table({"item_id": list("abcdef")}), pa.table(log))


def test_what_the_parent_has_seen_is_not_held_out_by_another_order_of_a_day():
    """Of events a b c of one day the parent trains on a: in the order b c a it would test."""
    before = [("u", item, 1) for item in "abc"]
    old = log_summary(log_of(*before, ("v", "d", 2)))
    turned = log_of(*before[1:], before[0], ("v", "d", 2), ("v", "e", 3))
    assert "another order" in lacks_events_of(turned, old, held_out=True)
    assert lacks_events_of(turned, old) == ""  # where nothing is held out, it does not matter
    assert lacks_events_of(log_of(*before, ("v", "d", 2), ("u", "e", 3)), old, held_out=True) == ""
    # Users and rows of the file in another order are the same log.
    assert lacks_events_of(log_of(("v", "d", 2), ("v", "e", 2), *before), old, held_out=True) == ""
    # The same on the last day, whose events may come late.
    last = log_summary(log_of(("v", "d", 1), *[("u", item, 2) for item in "abc"]))
    late = [("v", "d", 1), *[("u", item, 2) for item in "bcad"]]
    assert "came after the parent's" in lacks_events_of(log_of(*late), last, held_out=True)
    assert lacks_events_of(log_of(*late), last) == ""
    turned = log_of(late[0], *[("u", item, 2) for item in "bca"])
    assert "another order" in lacks_events_of(turned, last, held_out=True)
    on = [*late, ("u", "e", 3), ("u", "f", 3)]
    assert lacks_events_of(log_of(*on), last, held_out=True) == ""  # held out are events of a later day
