"""Loading of a recommender: from where, to which device, in which precision."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch

from tiger.recommender import hub
from tiger.recommender.checkpoint import read_state
from tiger.recommender.manifest import find_folder
from tiger.recommender.state import RecommenderState
from tiger.utils.errors import DataError
from tiger.utils.hub import DownloadOptions
from tiger.utils.paths import is_repo_id, nearest_hint

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ATTENTION = ("eager", "sdpa")


@dataclass(frozen=True)
class LoadOptions(DownloadOptions):
    """Options of :meth:`tiger.TigerRecommender.from_pretrained`, beside those of a download.

    Args:
        rank: read the ranker, where there is one.
        dtype: of the T5's weights and products: ``float32``, ``float16`` or ``bfloat16``; None or ``auto``: as saved.
        device_map: a device, or ``auto``: the GPU where there is one. A recommender is on one device.
        attn_implementation: ``eager`` or ``sdpa``, of the T5's own ``generate``; the beam search has its own.
    """

    rank: bool = True
    dtype: str | torch.dtype | None = None
    device_map: str | int | torch.device | dict | None = None
    attn_implementation: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.dtype not in (None, "auto"):
            float_dtype(self.dtype)
        if self.attn_implementation not in (None, *ATTENTION):
            raise DataError(
                f"attn_implementation must be one of {', '.join(ATTENTION)}, got {self.attn_implementation!r}: T5's "
                "position biases are added to the scores, which others leave out."
            )


def load_options(options: LoadOptions | None, given: dict[str, Any]) -> LoadOptions:
    """Options with others over them, by the names that transformers has for them.

    Raises:
        DataError: one is unknown, or refused.
    """
    given = dict(given)
    if given.pop("trust_remote_code", None):
        raise DataError("trust_remote_code: no code of a model's repository is ever run. Leave it out.")
    if "torch_dtype" in given:
        old = given.pop("torch_dtype")
        if given.setdefault("dtype", old) != old:
            raise DataError("dtype and torch_dtype differ: give dtype alone.")
    known = [field.name for field in fields(LoadOptions)]
    if unknown := sorted(given.keys() - set(known)):
        raise DataError(f"from_pretrained has no option {', '.join(unknown)}: it has {', '.join(known)}.")
    values = {} if options is None else {name: getattr(options, name) for name in known}
    return LoadOptions(**{**values, **given})


def load_state(
    name: str | os.PathLike, device: str | int | torch.device | None, options: LoadOptions
) -> RecommenderState:
    """Read a recommender from a directory or from the Hub.

    Raises:
        DataError: see :meth:`tiger.TigerRecommender.from_pretrained`.
    """
    device = _chosen_device(device, options.device_map)
    within = Path(name).is_dir() and bool(options.subfolder)
    folder = find_folder(Path(name) / options.subfolder if within else name)
    if folder.is_dir() or within:
        state = read_state(folder, device, options.rank, verify=True)
    elif is_repo_id(name):
        state = read_state(hub.download(name, options), device, options.rank)
    else:
        wanted = "the one that a recipe saved, such as runs/demo/model, or a repository on the Hub, owner/name"
        raise DataError(f"{folder} is not a directory{nearest_hint(folder)}: give {wanted}.")
    if options.dtype not in (None, "auto"):
        cast(torch.nn.Module, state.model).to(float_dtype(options.dtype))
    if options.attn_implementation is not None:
        state.model.set_attn_implementation(options.attn_implementation)
    return state


def float_dtype(dtype: Any) -> torch.dtype:
    """A precision that a T5 may have, by its name or itself.

    Raises:
        DataError: it is another.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise DataError(f"dtype must be one of {', '.join(DTYPES)}, got {name}.")
    return DTYPES[name]


def check_device(device: str | int | torch.device) -> torch.device:
    """A device that is there.

    Raises:
        DataError: it is none, or this machine or this build of torch lacks it.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{device!r} is no device: give cpu, cuda or cuda:1.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        why = "torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
        raise DataError(f"device {device}: {why}. Give cpu, or install a torch for your GPU and its driver.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise DataError(f"device {device}: this machine has {torch.cuda.device_count()} GPUs, counted from cuda:0.")
    return found


def _chosen_device(device: str | int | torch.device | None, device_map: Any) -> torch.device:
    """One device from the two ways to name it."""
    if device_map is None:
        return check_device("cpu" if device is None else device)
    if device is not None:
        raise DataError("device and device_map both name a place: give device alone.")
    if isinstance(device_map, dict):
        places = set(device_map.values())
        device_map = places.pop() if len(places) == 1 else "several"
    if device_map == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device_map in ("balanced", "balanced_low_0", "sequential", "several", "disk"):
        raise DataError("device_map spreads a model over devices, a recommender is on one: give device='cuda'.")
    return check_device(device_map)
