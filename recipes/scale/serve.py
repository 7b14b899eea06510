"""Answer over HTTP by replicas on Ray Serve: `tiger serve --engine ray`.

python recipes/scale/serve.py runs/large/model --update_log runs/large/updates --address auto --replicas 4
"""

from __future__ import annotations

import sys

from tiger.cli.main import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:], "--engine", "ray"])
