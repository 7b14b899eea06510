"""Options in both spellings, and the nearest name for one that there is not."""

import pytest

from tiger.cli.main import main


def stopped(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("option", ["--num-beams", "--num_beams", "--num-b"])
def test_both_spellings(capsys, tmp_path, option):
    printed = stopped(capsys, "recommend", str(tmp_path / "none"), "--history", "a", option, "0")
    assert "num_beams must be" in printed


def test_the_nearest_name_is_told(capsys):
    assert "(did you mean recommend?)" in stopped(capsys, "recomend", "demo")
    assert "(did you mean --num_beams?)" in stopped(capsys, "recommend", "demo", "--num-beems", "5")
    assert "did you mean" not in stopped(capsys, "recommend", "demo", "--xyzzy")
