"""Validation of LightGBM models from untrusted files: every number is checked before LightGBM reads the text.

LightGBM trusts its text. A feature number out of range, a tree whose children form a circle or fewer leaves than the
tree names read memory that is not theirs, and the process is gone. :func:`checked_model` parses the text, walks every
tree, and writes a new text that holds what it understood and nothing else.
"""

from __future__ import annotations

import re

import numpy as np

from tiger.utils.errors import DataError

MAX_CHARACTERS = 1 << 28
MAX_TREES = 20_000
MAX_LEAVES = 1 << 16

_NUMBER = re.compile(r"[-+]?(\d{1,25}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,3})?")
_RANGE = re.compile(rf"none|\[{_NUMBER.pattern}:{_NUMBER.pattern}\]")
_NAME = re.compile(r"[^\s=\[\]:,\"{}]{1,200}")
_HEADER = (
    *("version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective"),
    *("feature_names", "feature_infos", "tree_sizes"),
)
_FIXED = {"num_class": "1", "num_tree_per_iteration": "1", "label_index": "0"}
# Of each tree: values a node inside, and values a leaf. What LightGBM can do without is kept where it is there.
_NEEDED_NODES = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_NODES = (*_NEEDED_NODES, "split_gain", "internal_value", "internal_weight", "internal_count")
_LEAVES = ("leaf_value", "leaf_weight", "leaf_count")
_ABOVE_ALL = "1e+300"  # in place of an infinite threshold, with which LightGBM splits known from unknown values
_ONES = ("num_leaves", "num_cat", "is_linear", "shrinkage")


def checked_model(text: str, num_features: int) -> str:
    """The text of a model whose trees can be followed, from every node to a leaf.

    Args:
        text: as ``lightgbm.Booster.model_to_string`` writes it: one score per row, splits at thresholds.
        num_features: features a row has.

    Raises:
        DataError: it is no such text, or a number in it is out of range.
    """
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS or not text.isascii():
        raise DataError("the trees are not a LightGBM model text")
    head, *blocks = re.split(r"\n+(?=Tree=\d+\n|end of trees\n)", text)
    if not blocks or not blocks[-1].startswith("end of trees"):
        raise DataError("the trees' text ends early")
    if len(blocks) - 1 > MAX_TREES:
        raise DataError(f"{len(blocks) - 1} trees, more than {MAX_TREES}")
    trees = [_checked_tree(block, number, num_features) for number, block in enumerate(blocks[:-1])]
    header = _checked_header(head, num_features)
    header["tree_sizes"] = " ".join(str(len(tree)) for tree in trees)
    lines = ["tree", *(f"{name}={header[name]}" for name in _HEADER), "", "".join(trees) + "end of trees", ""]
    return "\n".join(lines)


def _fields(block: str, where: str) -> dict[str, str]:
    fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    if len(fields) != sum(1 for line in block.splitlines() if line.strip() and line != "tree"):
        raise DataError(f"{where} has a line that is no `name=value`, or one twice")
    return fields


def _checked_header(head: str, num_features: int) -> dict[str, str]:
    header = _fields(head, "the trees' header")
    if missing := set(_HEADER) - set(header):
        raise DataError(f"the trees' header lacks {', '.join(sorted(missing))}")
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    fine = (
        re.fullmatch(r"v\d{1,2}", header["version"])
        and all(header[name] == value for name, value in _FIXED.items())
        and re.fullmatch(r"[a-z_0-9]{1,40}( [a-z_]{1,40}:[\w.]{1,40})*", header["objective"])
        and header["max_feature_idx"] == str(num_features - 1)
        and len(names) == len(infos) == num_features
        and all(map(_NAME.fullmatch, names))
        and all(map(_RANGE.fullmatch, infos))
    )
    if not fine:
        raise DataError(f"the trees' header is not that of trees over {num_features} features")
    return header


def _checked_tree(block: str, number: int, num_features: int) -> str:
    """One tree's text, as long as ``tree_sizes`` is to say.

    Raises:
        DataError: a walk from its root could leave it, or go on for ever.
    """
    where = f"tree {number}"
    fields = _fields(block, where)
    leaves = _integers(fields, "num_leaves", where, 1, low=1, high=MAX_LEAVES)[0]
    _integers(fields, "num_cat", where, 1, low=0, high=0)
    if "is_linear" in fields:
        _integers(fields, "is_linear", where, 1, low=0, high=0)
    if fields.get("Tree") != str(number):
        raise DataError(f"{where} is called {fields.get('Tree', 'nothing')[:20]}")
    inside = leaves - 1
    if "threshold" in fields:
        fields["threshold"] = re.sub(r"(?<!\S)inf(?!\S)", _ABOVE_ALL, fields["threshold"])
    for name in (*_NODES, *_LEAVES, "shrinkage"):
        if name in fields:
            _numbers(
                fields, name, where, {"shrinkage": 1}.get(name, inside if name in _NODES else leaves), leaves == 1
            )
    if not {"leaf_value", *(_NEEDED_NODES if inside else ())} <= set(fields):
        raise DataError(f"{where} lacks some of {', '.join(_NEEDED_NODES)}, leaf_value")
    if inside:
        _integers(fields, "split_feature", where, inside, low=0, high=num_features - 1)
        kinds = _integers(fields, "decision_type", where, inside, low=0, high=10)
        if (kinds % 2).any():
            raise DataError(f"{where} splits by category")
        children = np.stack(
            [_integers(fields, f"{side}_child", where, inside, -leaves, inside - 1) for side in ("left", "right")]
        )
        # A node is numbered after its parent, so a walk goes up until it ends; and each is the child of one parent.
        if ((children >= 0) & (children <= np.arange(inside))).any():
            raise DataError(f"{where} runs in a circle")
        if not np.array_equal(np.sort(children.ravel()), np.setdiff1d(np.arange(-leaves, inside), [0])):
            raise DataError(f"{where} has a node without a parent, or with two")
    order = ("num_leaves", "num_cat", *_NODES, *_LEAVES, "is_linear", "shrinkage")
    return f"Tree={number}\n" + "".join(f"{name}={fields[name]}\n" for name in order if name in fields) + "\n\n"


def _numbers(fields: dict[str, str], name: str, where: str, count: int, may_lack: bool = False) -> list[str]:
    """The words of a field, each a finite number."""
    words = fields[name].split(" ") if fields[name] else []
    if may_lack and not words and name != "leaf_value":
        return words
    if len(words) != count or not all(map(_NUMBER.fullmatch, words)) or not np.isfinite(np.array(words, float)).all():
        raise DataError(f"{where}: {name} should be {count} finite numbers")
    return words


def _integers(fields: dict[str, str], name: str, where: str, count: int, low: int, high: int) -> np.ndarray:
    words = fields.get(name, "").split(" ")
    if len(words) != count or not all(re.fullmatch(r"-?\d{1,9}", word) for word in words):
        raise DataError(f"{where}: {name} should be {count} whole numbers")
    values = np.array(words, dtype=np.int64)
    if values.min() < low or values.max() > high:
        raise DataError(f"{where}: {name} should lie between {low} and {high}")
    return values
