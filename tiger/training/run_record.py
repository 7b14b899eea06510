"""Record of a training run beside its checkpoints, ``run.json``: settings, seconds, whether it has finished."""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path

from transformers import TrainerCallback

from tiger.utils.digests import check_digests, write_digests
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.json_files import read_json
from tiger.utils.schema import boolean, check_fields, dict_of, number


class RunRecord(TrainerCallback):
    """Decide whether a run starts, resumes or is finished, and count its seconds over all starts.

    Args:
        output_dir: of the run's checkpoints.
        settings: what makes it this run, JSON values by name.
        processes: how many train together.

    Attributes:
        checkpoint: where to go on from; None: from the start.
        finished: the run was trained to its end.

    Raises:
        DataError: checkpoints are there, of a run with other settings.
    """

    def __init__(self, output_dir: str | os.PathLike, settings: dict, processes: int = 1):
        self._file = Path(output_dir) / "run.json"
        self._settings = settings | {"processes": processes}
        self.checkpoint = last_whole_checkpoint(output_dir, processes)
        record = self._read() if self._file.exists() and self.checkpoint else {}
        before = record.get("settings", self._settings)
        changed = [
            f"{name}: {before.get(name)} -> {value}"
            for name, value in self._settings.items()
            if before.get(name) != value
        ]
        if changed:
            raise DataError(
                f"{output_dir} holds a run with other settings ({'; '.join(changed)}): "
                "give another --output_dir, or remove that one."
            )
        self.finished = record.get("finished", False)
        self._earlier = record.get("seconds", 0.0)
        self._began = time.time()

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, including those before a resume."""
        return self._earlier + time.time() - self._began

    def _read(self) -> dict:
        record = read_json(self._file)
        rules = {"settings": dict_of(lambda value: True, 1000), "seconds": number(0, 1e12), "finished": boolean}
        check_fields(record, rules, self._file)
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
        record = {"settings": self._settings, "seconds": round(self.seconds, 1), "finished": finished}
        write_atomically(self._file, json.dumps(record, indent=1) + "\n")


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
