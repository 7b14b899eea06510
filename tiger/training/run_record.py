"""Record of a training run beside its checkpoints, ``run.json``: settings, data, seconds, whether it has finished."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tiger.data.identity import check_same_data
from tiger.training.run_settings import PLACES, changed_settings
from tiger.utils.digests import check_digests, write_digests
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.json_files import read_json
from tiger.utils.schema import boolean, check_fields, dict_of, number, text


class RunRecord(TrainerCallback):
    """Decide whether a run starts, resumes or is finished, and count its seconds over all starts.

    Args:
        output_dir: of the run's checkpoints.
        settings: what makes it this run, JSON values by name. Those that an older version didn't record are not
            compared.
        processes: how many train together.
        data: digests of what it learns from, see :func:`tiger.data.identity.data_digests`; compared likewise.
        earlier: values of settings that an older version's record lacks, or leaves open (None): these are compared.

    Attributes:
        checkpoint: where to go on from; None: from the start.
        finished: the run was trained to its end. It says so without checkpoints, too.
        identity: digest of settings and data, in hexadecimal; the model keeps it too.
        finished_as: the identity under which the run was finished; None: it was not, or by an older version.

    Raises:
        DataError: the folder holds a run with other settings, or of other data.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        settings: dict,
        processes: int = 1,
        data: Mapping[str, str] | None = None,
        earlier: Mapping[str, Any] | None = None,
    ):
        self._file = Path(output_dir) / "run.json"
        self._settings = settings | {"processes": processes}
        self._data = dict(data or {})
        self._earlier_settings = dict(earlier or {})
        self.checkpoint = last_whole_checkpoint(output_dir, processes)
        record = self._read() if self._file.exists() else {}
        self._check(output_dir, record)
        self.finished = record.get("finished", False)
        self.identity = _digest([{name: self._settings[name] for name in {*self._settings} - PLACES}, self._data])
        self.finished_as = record.get("identity") if self.finished else None
        # Where nothing is left to go on from, the time that was spent on it doesn't count.
        self._earlier = record.get("seconds", 0.0) if self.checkpoint else 0.0
        self._began = time.time()

    def _check(self, output_dir: str | os.PathLike, record: Mapping[str, Any]) -> None:
        """Compare with what was recorded."""
        dataset = self._settings.get("dataset", "the dataset")
        remedy = "put back what it was, or train into another folder (--output_dir; of tiger train, --out)"
        check_same_data(record.get("data", {}), self._data, dataset, f"the run in {output_dir}", remedy)
        before = dict(record.get("settings", {}))
        if before:
            before |= {name: value for name, value in self._earlier_settings.items() if before.get(name) is None}
        if changed := changed_settings(before, self._settings):
            raise DataError(
                f"{output_dir} holds a run with other settings ({'; '.join(changed)}): give those that it has (of "
                "tiger train, --set retriever.NAME=VALUE), train into another folder (--out; of a recipe, "
                "--output_dir), or remove that one."
            )

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, including those before a resume."""
        return self._earlier + time.time() - self._began

    def _read(self) -> dict:
        record = read_json(self._file)
        digest = record.pop("sha256", None)  # older versions wrote none
        if digest is not None and digest != _digest(record):
            raise DataError(f"{self._file} is damaged or was edited: its content has another sha256 than it names.")
        rules = {"settings": dict_of(lambda value: True, 1000), "seconds": number(0, 1e12), "finished": boolean}
        kept = {"data": dict_of(text(64), 100), "identity": text(64)}
        check_fields(record, rules, self._file, **kept)
        return record

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            folder = self._file.parent / f"checkpoint-{getattr(state, 'global_step', None)}"
            if folder.is_dir():
                # Other processes may still be writing their random states.
                write_digests(folder, lambda name: not name.startswith("rng_state_") or name == "rng_state_0.pth")
            self._write(finished=False)

    def finish(self) -> None:
        """Record that the run is finished."""
        self._write(finished=True)

    def _write(self, finished: bool) -> None:
        record: dict[str, Any] = {"settings": self._settings, "data": self._data, "identity": self.identity}
        record |= {"seconds": round(self.seconds, 1), "finished": finished}
        self._file.parent.mkdir(parents=True, exist_ok=True)  # a Trainer that saves nothing may have made none
        write_atomically(self._file, json.dumps(record | {"sha256": _digest(record)}, indent=1) + "\n")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def last_whole_checkpoint(folder: str | os.PathLike, processes: int = 1) -> str | None:
    """The newest checkpoint that all ``processes`` wrote to its end, or None. A killed run may leave half of one, a
    disk may damage one: that is named in a warning."""
    numbered = [path for path in Path(folder).glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            read_json(path / "trainer_state.json")  # what Trainer writes last
            check_digests(path)
        except DataError as error:
            warnings.warn(f"checkpoint left out, the one before is used: {error}", stacklevel=3)
            continue
        if len(list(path.glob("rng_state*.pth"))) >= processes:
            return str(path)
    return None
