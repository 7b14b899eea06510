"""Recommend for every user of a log, by workers on Ray: `tiger recommend --engine ray`.

python recipes/scale/recommend.py runs/large/model --histories log.parquet --out out.parquet --address auto
"""

from __future__ import annotations

import sys

from tiger.cli.main import main

if __name__ == "__main__":
    main(["recommend", *sys.argv[1:], "--engine", "ray"])
