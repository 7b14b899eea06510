"""docs/training.md says of each option what the code does with it."""

import dataclasses
import re
from pathlib import Path

from transformers import TrainingArguments

from tiger.rankers.click.trainer import RANKER_REFUSED
from tiger.recommender.trainer import REFUSED
from tiger.utils import trainer

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}


def rows(text):
    """Options and remarks of all tables in a part of the page."""
    return dict(re.findall(r"^\| `([\w.]+)` \|(?: (.*))? \|$", text, flags=re.M))


def part(title):
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_refused_options_are_those_of_the_code():
    first, _, second = part("Options that are refused").partition("`RankerTrainer` takes")
    assert rows(first) == {refusal.option: refusal.reason for refusal in REFUSED}
    own = [refusal for refusal in RANKER_REFUSED if refusal not in trainer.REFUSED]
    assert rows(second) == {refusal.option: refusal.reason for refusal in own}
    assert all("; " in refusal.reason for refusal in (*REFUSED, *RANKER_REFUSED))


def test_options_that_work_exist_and_are_not_refused():
    works = rows(part("Options that work"))
    assert len(works) > 25 and not set(works) & {refusal.option for refusal in REFUSED}
    assert set(works) <= FIELDS
