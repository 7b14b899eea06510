"""README.md of a dataset directory: what the Hub's viewer and ``datasets.load_dataset`` read of it."""

from __future__ import annotations

from pathlib import Path

from tiger.utils.files import write_atomically

CARD = "README.md"
_TEXT = """\
---
tags:
- recommendation
configs:
- config_name: items
  data_files: items.parquet
  default: true
- config_name: interactions
  data_files: interactions.parquet
---

# A catalog and its log

`items`: one row per item, `item_id` and what is known of it. `interactions`: one row per event, `user_id`, `item_id`
and `timestamp` (seconds since 1970), some with `rating` or `label`; a user's rows in order of time.

```python
from datasets import load_dataset

items = load_dataset("{name}", "items", split="train")
interactions = load_dataset("{name}", "interactions", split="train")
```

```python
from tiger import RecommendationData

data = RecommendationData.load("{name}")
```
"""


def write_dataset_card(folder: Path, name: str, owner: Path | None = None) -> None:
    """Write a dataset's card, unless there is one: that is its owner's.

    Args:
        folder: the dataset directory, or one that takes its place.
        name: the directory, as a reader would call it.
        owner: the directory that ``folder`` takes the place of.
    """
    kept = (owner or folder) / CARD
    if kept.is_file():
        if owner is not None:
            write_atomically(folder / CARD, kept.read_bytes())
        return
    write_atomically(folder / CARD, _TEXT.replace("{name}", name))
