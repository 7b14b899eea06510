"""Give semantic IDs to the items of many files, by workers on Ray: `tiger index --engine ray`.

python recipes/scale/index.py items/*.parquet --out runs/large/tokenizer --address auto --workers 8
"""

from __future__ import annotations

import sys

from tiger.cli.main import main

if __name__ == "__main__":
    main(["index", *sys.argv[1:], "--engine", "ray"])
