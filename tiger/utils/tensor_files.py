"""safetensors from files that may be damaged, or come from a stranger: shapes and types are checked before values."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError, safe_open

from tiger.utils.errors import DataError
from tiger.utils.json_files import check_regular

FLOATS = ("F32", "F16", "BF16")
MAX_TENSORS = 100_000
MAX_DIMENSION = 1 << 40  # a shape like [10^18, 0] takes no bytes, and says how many rows are made of it


@dataclass(frozen=True)
class TensorHeader:
    """The header of a safetensors file.

    Args:
        tensors: type, as safetensors spells it, and shape by name.
        metadata: texts by name.
    """

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def read_header(file: str | os.PathLike) -> TensorHeader:
    """The header alone. The reader has checked then that shapes are those of the bytes that there are.

    Raises:
        DataError: missing, no regular file, cut short or damaged.
    """
    check_regular(file)
    try:
        with safe_open(file, "np") as opened:
            names = list(opened.keys())
            if len(names) > MAX_TENSORS:
                raise DataError(f"{file} is damaged: it holds {len(names):,} tensors.")
            slices = {name: opened.get_slice(name) for name in names}
            tensors = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({' '.join(str(error).split())[:200]}): restore it.") from error
    if wide := [name for name, (_, shape) in tensors.items() if max(shape, default=0) > MAX_DIMENSION]:
        raise DataError(f"{file} is damaged: {wide[0][:60]} has the shape {list(tensors[wide[0]][1])}.")
    return TensorHeader(tensors, metadata)


def read_arrays(
    file: str | os.PathLike,
    wanted: Mapping[str, tuple[str | tuple[str, ...], tuple[int | None, ...]]],
    optional: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """All tensors of a file, as arrays.

    Args:
        wanted: the type (as safetensors spells it, or several), and the shape by name; None: any length.
        optional: names of these that may be missing.

    Raises:
        DataError: as :func:`read_header`, a tensor is missing or one too many, of another type or shape, or holds NaN
            or infinity.
    """
    header = read_header(file)
    check_tensors(file, header, wanted, optional)
    try:
        with safe_open(file, "np") as opened:
            arrays = {name: opened.get_tensor(name) for name in header.tensors}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged ({' '.join(str(error).split())[:200]}): restore it.") from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{file} is damaged: {name} holds NaN or infinity.")
    return arrays


def check_tensors(
    file: str | os.PathLike,
    header: TensorHeader,
    wanted: Mapping[str, tuple[str | tuple[str, ...], tuple[int | None, ...]]],
    optional: Iterable[str] = (),
) -> None:
    """Compare a header with what is wanted, see :func:`read_arrays`.

    Raises:
        DataError: a tensor is missing or one too many, of another type or shape.
    """
    found = header.tensors
    if missing := sorted(set(wanted) - set(found) - set(optional)):
        raise DataError(f"{file} is damaged: it lacks {_some(missing)}.")
    if unknown := sorted(set(found) - set(wanted)):
        raise DataError(f"{file} is damaged: it holds {_some(unknown)} too.")
    for name, (kind, shape) in found.items():
        kinds, expected = wanted[name]
        fits = len(shape) == len(expected) and all(want in (None, have) for want, have in zip(expected, shape))
        if not fits or kind not in ((kinds,) if isinstance(kinds, str) else kinds):
            raise DataError(
                f"{file} is damaged: {name[:60]} is {kind} {list(shape)}, where "
                f"{kinds if isinstance(kinds, str) else ' or '.join(kinds)} "
                f"[{', '.join('n' if want is None else str(want) for want in expected)}] should be."
            )


def header_json(file: str | os.PathLike, header: TensorHeader, name: str) -> dict:
    """An object of JSON that the metadata hold.

    Raises:
        DataError: there is none.
    """
    try:
        content = json.loads(header.metadata.get(name, "null"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged ({type(error).__name__} in its header): restore it.") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is damaged: its header tells nothing of a {name}.")
    return content


def _some(names: list[str]) -> str:
    return ", ".join(name[:60] for name in names[:3]) + (", ..." if len(names) > 3 else "")
