"""Train the T5 by processes on many machines, which Ray starts.

    python recipes/scale/train.py recipes/default/retriever.yaml --dataset datasets/mine --address auto --workers 4

All options but these are those of `recipes/retriever.py`. The working directory is shared by all machines. The batch
of the recipe is that of each process: divide `--per_device_train_batch_size` by `--workers` for the same steps.
"""

from __future__ import annotations

import argparse
import sys

from tiger.cli.common import friendly_errors
from tiger.scale.session import LOCAL, Cluster
from tiger.scale.train import train_on_ray
from tiger.utils.extras import extras_named


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--address", default=LOCAL, help="auto, HOST:PORT, or local (default)")
    parser.add_argument("--workers", type=int, default=2, help="processes that train (default 2)")
    parser.add_argument("--worker_cpus", type=int, default=1, help="cores of each (default 1)")
    parser.add_argument("--worker_gpus", type=int, default=0, help="GPUs of each (default 0)")
    args, rest = parser.parse_known_args(argv)
    train_on_ray(rest, Cluster(args.address, args.workers, args.worker_cpus, args.worker_gpus))


if __name__ == "__main__":
    with friendly_errors(), extras_named():
        main(sys.argv[1:])
