"""Lineage of a recommender: the parent that its training record names, and how its model card tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiger.data.identity import INTERACTIONS


def lineage_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """The parent that a training record names; empty where it started from nothing."""
    found = training.get("parent")
    return found if isinstance(found, dict) else {}


def logs_of(training: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the parent's log and of the present one, where they are recorded."""
    digests = {"parent's": lineage_of(training).get("data"), "present": training.get("data")}
    return {
        whose: str(found[INTERACTIONS])
        for whose, found in digests.items()
        if isinstance(found, dict) and INTERACTIONS in found
    }


def lineage_sentences(training: dict) -> list[str]:
    """Sentences on the parent; none where training started from nothing."""
    if not isinstance(training.get("parent"), dict):
        return []
    parent, logs = lineage_of(training), {"parent's": "the parent's log", "present": "this log"}
    digests = [f"`{cell(digest)}` ({logs[whose]})" for whose, digest in logs_of(training).items()]
    known = f" SHA-256 of the logs: {', '.join(digests)}." if digests else ""
    return [
        f"Training went on from the parent with the fingerprint `{cell(parent.get('fingerprint'))}`, number "
        f"{cell(parent.get('generation'))} since the first; {cell(parent.get('new_items'))} items are new and got "
        f"their semantic IDs by its quantizer.{known}"
    ]


def cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
