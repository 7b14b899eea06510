"""The part of a repository's README.md that is ours: rewritten by each push; the rest is the owner's and stays."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

LIBRARY = "tiger-recommender"
BEGIN = "<!-- begin tiger: rewritten by each push; write above or below, which is kept -->"
END = "<!-- end tiger -->"
_OF_THE_MODEL = ("model-index",)  # not kept: results of another model


@dataclass(frozen=True)
class Readme:
    """A README.md: metadata and text.

    Args:
        metadata: YAML between the first two lines of dashes.
        text: all below it.
    """

    metadata: dict
    text: str

    @classmethod
    def parse(cls, content: str) -> Readme | None:
        """None where the metadata can't be read."""
        lines = content.lstrip("\ufeff").replace("\r\n", "\n")
        if not lines.startswith("---\n"):
            return cls({}, lines)
        head, found, text = lines[4:].partition("\n---")
        try:
            metadata = yaml.safe_load(head) if found else None
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):  # a date that is none
            return None
        if metadata is None and found:
            metadata = {}
        return cls(metadata, text.lstrip("-").lstrip("\n")) if isinstance(metadata, dict) else None

    @property
    def is_ours(self) -> bool:
        """Whether a push may write into it: an earlier one wrote it, or there is no text yet."""
        marked = BEGIN in self.text and END in self.text.partition(BEGIN)[2]
        before_there_were_marks = self.metadata.get("library_name") == LIBRARY and "Written with tiger " in self.text
        return marked or before_there_were_marks or not self.text.strip()

    def render(self) -> str:
        head = yaml.safe_dump(self.metadata, sort_keys=False, allow_unicode=True)
        return f"---\n{head}---\n\n{self.text.strip()}\n"


def merged(old: Readme, new: Readme) -> Readme:
    """The new card, with what the owner wrote around the old one, and the metadata that we don't set.

    Args:
        old: one that is ours.
        new: as :func:`tiger.recommender.model_card.model_card` makes it.
    """
    metadata = {name: value for name, value in old.metadata.items() if name not in _OF_THE_MODEL} | new.metadata
    for name in ("tags", "datasets"):
        mine, theirs = old.metadata.get(name), new.metadata.get(name)
        if isinstance(mine, list) and isinstance(theirs, list):
            metadata[name] = list(dict.fromkeys([*theirs, *mine]))
    above, _, rest = old.text.partition(BEGIN)
    if not rest:
        return Readme(metadata, new.text)
    below = rest.partition(END)[2]
    return Readme(metadata, f"{above.rstrip()}\n\n{new.text.strip()}\n\n{below.lstrip()}")
