import json
import time
from types import SimpleNamespace

import pytest

from tiger.training.run_record import RunRecord, last_whole_checkpoint
from tiger.utils.errors import DataError


def write_checkpoint(folder, step, state="{}", processes=1):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    for rank in range(processes):
        (path / (f"rng_state_{rank}.pth" if processes > 1 else "rng_state.pth")).touch()
    return str(path)


def test_half_a_checkpoint_is_passed_over(tmp_path):
    assert last_whole_checkpoint(tmp_path / "nowhere") is None
    write_checkpoint(tmp_path, 9)
    whole = write_checkpoint(tmp_path, 10, processes=2)
    write_checkpoint(tmp_path, 11, state='{"step": ', processes=2)
    write_checkpoint(tmp_path, 12, state=None, processes=2)
    alone = write_checkpoint(tmp_path, 13)
    assert last_whole_checkpoint(tmp_path) == alone
    assert last_whole_checkpoint(tmp_path, processes=2) == whole


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    record = RunRecord(tmp_path, {"learning_rate": 0.1, "semantic_ids": "a"})
    assert record.checkpoint is None and not record.finished
    checkpoint = write_checkpoint(tmp_path, 5)
    record._began -= 100
    record.on_save(None, SimpleNamespace(is_world_process_zero=True), None)
    again = RunRecord(tmp_path, {"learning_rate": 0.1, "semantic_ids": "a"})
    assert again.checkpoint == checkpoint and not again.finished and 100 <= again.seconds < 110
    for change, told in (({"learning_rate": 0.2}, "learning_rate: 0.1 -> 0.2"), ({"semantic_ids": "b"}, "a -> b")):
        with pytest.raises(DataError, match=told):
            RunRecord(tmp_path, {"learning_rate": 0.1, "semantic_ids": "a"} | change)
    with pytest.raises(DataError, match="processes: 1 -> 2"):
        write_checkpoint(tmp_path, 6, processes=2)
        RunRecord(tmp_path, {"learning_rate": 0.1, "semantic_ids": "a"}, processes=2)
    again.finish()
    assert RunRecord(tmp_path, {"learning_rate": 0.1, "semantic_ids": "a"}).finished
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["semantic_ids"] == "a"


@pytest.mark.parametrize("old, new", [("0.1", "0.2"), ("true", "false"), ('"seconds": 12.5', '"seconds": 92.5')])
def test_a_record_that_was_changed_is_refused(tmp_path, old, new):
    record = RunRecord(tmp_path, {"learning_rate": 0.1})
    record._earlier, record._began = 12.5, time.time()
    record.finish()
    file = tmp_path / "run.json"
    assert RunRecord(tmp_path, {"learning_rate": 0.1}).finished
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match="run.json is damaged or was edited"):
        RunRecord(tmp_path, {"learning_rate": 0.1})
