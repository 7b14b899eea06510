"""The data that a recommender was trained on, as its model card tells of it."""

from __future__ import annotations

from pathlib import Path

from tiger.data.splits import ALL
from tiger.evaluation.training_split import SUFFIX, counts_validation
from tiger.recommender.card_lineage import lineage_sentences
from tiger.recommender.state import RecommenderState


def data_text(state: RecommenderState) -> str:
    """Sentences on what a recommender was trained on, what its counts hold and what it knows of the items."""
    training = state.training
    dataset = training.get("dataset")
    lines = [f"Trained on `{Path(str(dataset)).name}`." if dataset else "The data set is not recorded."]
    if "shuffle_ties" in training:
        seed = training["shuffle_ties"]
        order = "stand as in the file" if seed is None else f"were put in random order (seed {seed})"
        lines.append(f"Events of one user and one day {order}.")
    if training.get("split") == ALL:
        lines.append("All events were trained on, none were held out: no part of this log can measure the model.")
    if counts_validation(training):
        lines.append(
            "Its counts hold validation events too, but no test event; all was fitted with counts of training events "
            f"alone. It can't be measured on validation events; names of test results end in `{SUFFIX}`, and so does "
            "that of the baseline to compare."
        )
    lines += lineage_sentences(training)
    lines.append(f"The model reads the last {state.max_history} items of a history.")
    if state.items is None:
        lines.append("Texts of the items are not part of this repository: answers are item ids.")
    else:
        columns = ", ".join(f"`{column}`" for column in state.items.column_names)
        lines.append(f"`items.parquet` holds the items' {columns}.")
    return " ".join(lines)
