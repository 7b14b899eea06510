"""Model cards: what is recorded of a recommender, as Markdown with YAML metadata."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from huggingface_hub import EvalResult, ModelCardData

from tiger import __version__
from tiger.embeddings.base import is_local_folder
from tiger.evaluation.training_split import SUFFIX
from tiger.quantizers.report import plot_code_usage
from tiger.recommender.card_block import BEGIN, END, LIBRARY
from tiger.recommender.card_data import data_text
from tiger.recommender.card_lineage import cell
from tiger.recommender.state import RecommenderState
from tiger.retriever.config import reads_users, retriever_config
from tiger.retriever.generation import lacking_in_t5
from tiger.retriever.plain_t5 import unlike_t5
from tiger.utils.errors import DataError
from tiger.utils.markdown import markdown_table
from tiger.utils.paths import is_repo_id

CARD, PLOT = "README.md", "code_usage.png"
CARD_FILES = (CARD, PLOT)
BASELINES = ("popularity", "transition", "content", "hybrid", f"hybrid{SUFFIX}")
_NEEDED = ("dataset", "model", "setting", "metrics")
# Described in words elsewhere, or of no use to a reader: folders of the machine that trained.
_UNLISTED = ("dataset", "arguments", "tokenizer", "model_dir", "init_from")


def read_results(files: Iterable[str | os.PathLike]) -> list[dict]:
    """Rows of results files, such as ``recipes/evaluate.py`` writes.

    Raises:
        DataError: a file is missing or no results file.
    """
    rows: list[dict] = []
    for file in files:
        try:
            content = json.loads(Path(file).read_text())
        except OSError as error:
            raise DataError(f"{file} can't be read ({error.strerror}): give results files of evaluation.") from error
        except ValueError as error:
            raise DataError(f"{file} is not JSON ({error}): give results files of evaluation.") from error
        found = content if isinstance(content, list) else [content]
        for row in found:
            if not isinstance(row, dict) or any(name not in row for name in _NEEDED):
                raise DataError(f"{file} holds a result without {', '.join(_NEEDED)}: it is not a results file.")
        rows += found
    return rows


def write_card(state: RecommenderState, folder: str | os.PathLike, card: str) -> None:
    """Write a card as ``README.md``, and its plot, into a recommender's directory."""
    tokenizer = state.tokenizer
    plot_code_usage(tokenizer.codes, tokenizer.codebook_size, Path(folder) / PLOT)
    (Path(folder) / CARD).write_text(card, encoding="utf-8")


def model_card(
    state: RecommenderState,
    repo_id: str,
    results: Sequence[dict] = (),
    license: str | None = None,
    revision: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """A recommender's card, Markdown below YAML metadata.

    Args:
        repo_id: ``owner/name``, or a folder: what the example opens.
        results: rows of results files. Those whose ``training`` is this recommender's are its own and go into the
            metadata's ``model-index`` too; others of the same data set and setting stand beside them in the table.
        license: of the weights, as the Hub spells it.
        revision: that the example names.
        datasets: on the Hub that it was trained on, ``owner/name``.

    Raises:
        DataError: no row is this recommender's, a metric is not a number, or a data set has no name of the Hub's.
    """
    name = repo_id.split("/")[-1]
    own = _own_results(state, results)
    data = ModelCardData(
        license=license,
        library_name=LIBRARY,
        pipeline_tag="other",  # the Hub has no task of recommendation
        datasets=_dataset_names(datasets) or None,
        tags=["recommendation", "generative-retrieval", "semantic-ids", "t5"],
        model_name=name,
        eval_results=_eval_results(own) or None,
    )
    sections = (
        (None, _summary(state)),
        ("Use", _use(state, repo_id, revision)),
        ("Data", data_text(state)),
        ("Training", _training(state)),
        ("Results", _results(own, results)),
        ("Semantic IDs", _codes(state)),
        ("Limits", _limits(state)),
        ("What is in here", _contents(state)),
        ("License", _license_text(license)),
    )
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections)
    return f"---\n{data.to_yaml()}\n---\n\n{BEGIN}\n# {name}\n\n{body}\n{END}\n"


def _dataset_names(datasets: Sequence[str]) -> list[str]:
    for name in datasets:
        if not is_repo_id(name):
            raise DataError(f"datasets: {name!r} is no data set of the Hub: give owner/name.")
    return list(datasets)


def _own_results(state: RecommenderState, results: Sequence[dict]) -> list[dict]:
    training = _as_saved(state.training)
    own = [row for row in results if row["model"] not in BASELINES and row.get("training") == training]
    if results and not own:
        raise DataError(
            "the results are of other models: none of them was measured on this one (their `training` differs). Give "
            "the files that recipes/evaluate.py wrote for it."
        )
    for row in results:
        for metric, value in row["metrics"].items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"results of {row['model']} on {row['dataset']}: {metric} is {value!r}, not a number.")
    return own


def _eval_results(own: list[dict]) -> list[EvalResult]:
    several = len({row["model"] for row in own}) > 1
    return [
        EvalResult(
            task_type="recommendation",
            task_name="Next item, full catalog",
            dataset_type=row["dataset"],
            dataset_name=row["dataset"],
            dataset_config=row["setting"],
            dataset_split="validation" if row["setting"].endswith("valid") else "test",
            metric_type=metric,
            metric_name=f"{_metric_name(metric)} ({row['model']})" if several else _metric_name(metric),
            metric_value=value,
        )
        for row in own
        for metric, value in row["metrics"].items()
    ]


def _summary(state: RecommenderState) -> str:
    ranker = " A ranker puts what the T5 proposes in order." if state.ranker is not None else ""
    return (
        f"A recommender for a catalog of {len(state.tokenizer):,} items. An item's text became a short tuple "
        "of codes, its *semantic ID*; a T5 reads a user's history as those codes and writes the next item's, and a "
        "prefix trie keeps every answer an item of the catalog (TIGER, "
        f"[arXiv 2305.05065](https://arxiv.org/abs/2305.05065)).{ranker}"
    )


def _use(state: RecommenderState, repo_id: str, revision: str | None) -> str:
    ids = state.tokenizer.item_ids[:2]
    source = json.dumps(repo_id) + (f", revision={json.dumps(revision)}" if revision else "")
    lines = [
        "from tiger import TigerRecommender",
        "",
        f"tiger = TigerRecommender.from_pretrained({source})",
        f"items, scores = tiger.recommend([{ids!r}], k=10, num_beams=50)",
    ]
    if state.ranker is not None:
        lines.append(f"ranked, scores = tiger.rank([{ids[:1]!r}], [{ids!r}])")
    if state.encoder is not None:
        lines.append(
            'tiger.add_items(["new-item"], ["Title: Folding lantern; Price: 12.5"])  # recommendable from now on'
        )
    return "\n".join(
        [
            "With the library installed (`pip install tiger-recommender`):",
            "",
            "```python",
            *lines,
            "```",
            "",
            "A history is a list of item ids, oldest first. The T5 by itself, in transformers, after `import tiger`:",
            "",
            "```python",
            *_transformers_lines(state, source, ids),
            "```",
            "",
            f"No code of this repository is run. {_generate_text(state)} {_plain_text(state)}",
        ]
    )


def _transformers_lines(state: RecommenderState, source: str, ids: list[str]) -> list[str]:
    lines = [
        "import tiger  # transformers then knows this type of model",
        "import torch",
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({source})",
        f"model = AutoModelForSeq2SeqLM.from_pretrained({source})",
        f"histories = torch.from_numpy(tokenizer.encode_history([tokenizer.rows({ids!r})]))",
    ]
    if reads_users(state.model):
        lines.append(
            "histories = torch.nn.functional.pad(histories, (1, 0), value=tokenizer.vocab_size)  # an unknown user"
        )
    return [
        *lines,
        "tokens = tiger.generate_items(model, histories, num_beams=50, num_return_sequences=10)",
        "found = [tokenizer.item_ids[row] for row in tokenizer.decode(tokens[:, 1:].numpy()) if row >= 0]",
    ]


def _generate_text(state: RecommenderState) -> str:
    if lacking := lacking_in_t5(state.model):
        return f"`model.generate` by itself is refused: it {lacking[0]}."
    return "`model.generate` with `prefix_allowed_tokens_fn` gives the same."


def _plain_text(state: RecommenderState) -> str:
    if reasons := unlike_t5(state.model):
        return f"A plain T5 with these weights computes other probabilities, for {'; '.join(reasons)}."
    return "A plain T5 with these weights computes the same; `model.export_t5(folder)` writes one."


def _training(state: RecommenderState) -> str:
    training = _as_saved(state.training)
    settings = training.get("arguments")
    known = [(key, value) for key, value in training.items() if key not in _UNLISTED]
    known += list(settings.items()) if isinstance(settings, dict) else []
    rows = [
        [f"`{cell(key)}`", cell(value)]
        for key, value in dict(known).items()
        if key not in _UNLISTED and isinstance(value, str | int | float | bool)
    ]
    return markdown_table(["", "recorded"], rows, left=2) if rows else "Nothing is recorded of the training."


def _results(own: list[dict], results: Sequence[dict]) -> str:
    if not own:
        return "No test results were given for this card."
    parts = []
    for dataset, setting in dict.fromkeys((row["dataset"], row["setting"]) for row in own):
        rows = [row for row in results if (row["dataset"], row["setting"]) == (dataset, setting)]
        metrics = list(dict.fromkeys(metric for row in rows for metric in row["metrics"]))
        rows.sort(key=lambda row: row["metrics"].get(metrics[-1], -math.inf))
        cells = [
            [f"**{cell(row['model'])}**" if row in own else cell(row["model"])]
            + [_measured(row, metric) for metric in metrics]
            for row in rows
        ]
        parts += [f"{dataset}, {setting}:", markdown_table(["", *map(_metric_name, metrics)], cells)]
        best = rows[-1]
        if best not in own:
            parts.append(
                f"By {_metric_name(metrics[-1])}, `{best['model']}` does better here than this model"
                f"{', without training' if best['model'] in BASELINES else ''}."
            )
    parts.append(
        "This model in bold. `popularity`, `transition`, `content` and their `hybrid` are baselines that count and "
        "compare, without training. A hit is the very item, ranked among the whole catalog."
    )
    parts += dict.fromkeys(f"Note: {row['note']}" for row in own if row.get("note"))
    for row in own:
        facts = [f"{row['num_beams']} beams"] if "num_beams" in row else []
        facts += [f"seeds {', '.join(map(str, row['seeds']))}"] if row.get("seeds") else []
        facts += [row["hardware"]] if row.get("hardware") else []
        facts += [f"{row['seconds']:g} s"] if row.get("seconds") else []
        command = f": `{row['command']}`" if row.get("command") else ""
        if facts or command:
            parts.append(f"- {row['model']}, {row['setting']}: {'; '.join(facts)}{command}")
    return "\n\n".join(parts)


def _measured(row: dict, metric: str) -> str:
    value, spread = row["metrics"].get(metric), row.get("std", {}).get(metric)
    if value is None:
        return ""
    return f"{value:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def _codes(state: RecommenderState) -> str:
    tokenizer = state.tokenizer
    sizes = np.unique(tokenizer.codes, axis=0, return_counts=True)[1]
    shared = sizes[sizes > 1].sum() / len(tokenizer)
    quantizer = "an unrecorded quantizer" if tokenizer.quantizer is None else type(tokenizer.quantizer).__name__
    encoder = "an unrecorded encoder" if state.encoder is None else f"`{state.encoder.name}`"
    log = "" if tokenizer.learned_split is None else " and of who is bought with whom in the training log"
    return (
        f"{tokenizer.num_codebooks} levels of {tokenizer.codebook_size} codes, from vectors of {encoder}{log} by "
        f"{quantizer}, and a token that tells apart items with the same codes. The T5's tokens are "
        f"{_tokens(state)}. {shared:.1%} of the items share all "
        f"their codes with another.\n\n![Use of the codes, and items that share them]({PLOT})"
    )


def _tokens(state: RecommenderState) -> str:
    if rows := retriever_config(state.model).hashed_rows:
        return f"codes of these IDs; their prefixes are hashed into a table of {rows:,} rows, whatever the catalog"
    return f"the {state.tokenizer.tokens} of these IDs"


def _limits(state: RecommenderState) -> str:
    lines = [
        "It knows the items and the habits of the log that it was trained on, with the log's biases; nothing is known "
        "of how it does elsewhere.",
        "Items of a history that the catalog lacks are left out of it.",
        "Scores order the items of one user; they are not probabilities of a purchase, nor comparable between users.",
        "The beams are a search: more of them find better items and cost more.",
    ]
    if state.encoder is None:
        lines.append("It was saved without a text encoder, so it can't take in new items from their texts.")
    elif state.encoder.self_contained:
        lines.append(
            f"New items are embedded by the encoder in here, `{state.encoder.name}`. It was fitted on the catalog's "
            "texts: what these never mention, it can't know."
        )
    elif is_local_folder(state.encoder):
        lines.append(
            "The text encoder was a folder on the machine that saved this and is not part of it: new items can only "
            "be added where that folder is."
        )
    else:
        lines.append(
            f"New items are embedded by `{state.encoder.name}`, which is downloaded when the first one is "
            "added. Give them texts like those of the catalog."
        )
    return "\n".join(f"- {line}" for line in lines)


def _contents(state: RecommenderState) -> str:
    rows = [
        ["`config.json`, `generation_config.json`, `model.safetensors`", "the T5"],
        ["`semantic_ids.safetensors`, `trie.safetensors`", "item ids, their semantic IDs, and the trie over them"],
    ]
    if state.tokenizer.quantizer is not None:
        rows.append(["`quantizer/`", "turns vectors of new items into codes"])
    if state.encoder is not None:
        whole = state.encoder.self_contained
        rows.append(["`encoder/`", "the text encoder" if whole else "the name of the text encoder"])
    if state.items is not None:
        rows.append(["`items.parquet`", "the item table"])
    if state.ranker is not None:
        rows.append(["`ranker/`", "the ranker, how it reads items, and their content vectors where it reads those"])
    rows.append(["`custom_generate/generate.py`", "a few lines that call the library; never run by it"])
    rows.append(
        ["`tiger.json`", "versions, what is known of the training, and a SHA-256 of every file that is loaded"]
    )
    return (
        f"{markdown_table(['file', ''], rows, left=2)}\n\n"
        f"The parts belong together: T5{', ranker' if state.ranker is not None else ''} and semantic IDs carry "
        f"the fingerprint `{state.tokenizer.fingerprint}`, and loading refuses files that differ from the "
        "manifest. "
        f"Written with tiger {__version__}, transformers {transformers.__version__}, torch {torch.__version__}."
    )


def _license_text(license: str | None) -> str:
    if license is None:
        return "The owner has stated no license for this model. The tiger library itself is Apache-2.0."
    return f"`{license}`. The tiger library itself is Apache-2.0."


def _as_saved(training: dict) -> dict:
    """With enums as text and tuples as lists, as a manifest and a results file hold it."""
    return json.loads(json.dumps(training))


def _metric_name(metric: str) -> str:
    name, _, k = metric.partition("@")
    return {"recall": "Recall", "ndcg": "NDCG"}.get(name, name) + (f"@{k}" if k else "")
