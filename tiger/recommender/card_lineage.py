"""The parent of a recommender in its model card."""

from __future__ import annotations


def lineage_sentences(training: dict) -> list[str]:
    """Sentences on the parent; none where training started from nothing."""
    parent = training.get("parent")
    if not isinstance(parent, dict):
        return []
    logs = {"the parent's log": parent.get("data"), "this log": training.get("data")}
    digests = [
        f"`{cell(found['interactions'])}` ({whose})"
        for whose, found in logs.items()
        if isinstance(found, dict) and "interactions" in found
    ]
    known = f" SHA-256 of the logs: {', '.join(digests)}." if digests else ""
    return [
        f"Training went on from the parent with the fingerprint `{cell(parent.get('fingerprint'))}`, number "
        f"{cell(parent.get('generation'))} since the first; {cell(parent.get('new_items'))} items are new and got "
        f"their semantic IDs by its quantizer.{known}"
    ]


def cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
