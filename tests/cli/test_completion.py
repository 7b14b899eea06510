"""The script of `tiger completion`, asked as a shell asks it."""

import shutil
import subprocess

import pytest

from tests.processes import run_python

ASKED = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
function=$(complete -p tiger | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function tiger "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$((COMP_CWORD - 1))]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_options_and_folders(tmp_path):
    done = run_python("-m", "tiger.cli", "completion", "bash")
    assert done.returncode == 0, done.stderr
    script = tmp_path / "completion.sh"
    script.write_text(done.stdout)
    for folder in ("runs", "recipes"):
        (tmp_path / folder).mkdir()

    def offered(*words):
        asked = ["bash", "-c", ASKED, "bash", script, "tiger", *words]
        return set(subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split())

    assert offered("re") == {"recommend"} and {"train", "import", "serve"} <= offered("")
    assert offered("recommend", "--num") == {"--num_beams"}
    assert offered("recommend", "ru") == {"runs"}
    assert offered("completion", "z") == {"zsh"}


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells(shell):
    done = run_python("-m", "tiger.cli", "completion", shell)
    assert done.returncode == 0 and "recommend" in done.stdout
