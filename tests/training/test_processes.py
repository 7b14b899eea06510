"""Several processes of one training leave their group without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import run_python

SCRIPT = """
import os
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from tiger.training.processes import leave_group

def threads_of_gloo():
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    return sum(name.startswith("pt_gloo") for name in names)

leave_group()  # there is none yet
distributed.init_process_group("gloo")
wrapped = DistributedDataParallel(torch.nn.Linear(2, 2))
wrapped.itself = [wrapped]
wrapped(torch.ones(1, 2)).sum().backward()
before = threads_of_gloo()
del wrapped
leave_group()
assert not distributed.is_initialized()
print("threads", before, threads_of_gloo())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_outlives_the_group(tmp_path):
    (tmp_path / "leave.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = run_python(*launcher, tmp_path / "leave.py")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("threads")]
    assert len(lines) == 2 and all(int(before) > 0 and after == "0" for _, before, after in lines)
