"""Training by two processes that Ray starts is that of torchrun, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_tables
from tiger.scale.session import Cluster
from tiger.training.tokenizer import TokenizerArguments, train_tokenizer
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]
SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1}
STEPS = {"max_steps": 3, "learning_rate": 0.01, "per_device_train_batch_size": 16, "use_cpu": True, "seed": 3}
STEPS |= {
    "ddp_backend": "gloo",
    "report_to": "none",
    "eval_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("train"), np.random.default_rng(0)
    words = "soap rose tent lamp wool boat green small large paper".split()
    columns = {
        "item_id": [f"i{row}" for row in range(40)],
        "title": [" ".join(random.choice(words, 4)) for _ in range(40)],
    }
    events = [(f"u{user}", f"i{random.integers(40)}", time) for user in range(30) for time in range(9)]
    write_tables(folder / "dataset", columns, events)
    arguments = {"encoder": "lsa", "embedding_dim": 8, "quantizer": "residual-kmeans", "num_codebooks": 2}
    train_tokenizer(
        TokenizerArguments(str(folder / "dataset"), str(folder / "tokenizer"), codebook_size=8, **arguments)
    )
    return folder


def words(folder: Path, name: str, **more) -> list[str]:
    places = {
        "dataset": "dataset",
        "tokenizer": "tokenizer",
        "model_dir": f"{name}/model",
        "output_dir": f"{name}/run",
    }
    return [f"--{key}={value}" for key, value in (places | SIZES | STEPS | more).items()]


def test_three_steps_are_those_of_torchrun(ray_session, folder, monkeypatch):
    pytest.importorskip("datasets", reason="needs the extra: pip install 'tiger-recommender[train]'")
    from tiger.scale.train import train_on_ray

    monkeypatch.chdir(folder)
    train_on_ray(words(folder, "ray"), Cluster(workers=2))
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=0",
        "--rdzv-backend=c10d",
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]),
    }
    done = subprocess.run(
        [*launch, "--rdzv-endpoint=127.0.0.1:0", "-m", "tiger.training", "retriever", *words(folder, "torchrun")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    weights = [(folder / name / "model" / "model.safetensors").read_bytes() for name in ("ray", "torchrun")]
    assert weights[0] == weights[1]
    record = (folder / "ray" / "model" / "tiger.json").read_text()
    assert '"processes": 2' in record and '"steps": 3' in record


def test_a_wrong_setting_is_told_before_any_worker_starts(ray_session, folder):
    from tiger.scale.train import train_on_ray

    with pytest.raises(DataError, match="3 workers need 3 cores"):
        train_on_ray(words(folder, "other"), Cluster(workers=3))
    with pytest.raises(DataError, match="num_layer"):
        train_on_ray([*words(folder, "other"), "--num_layer=1"], Cluster(workers=2))
