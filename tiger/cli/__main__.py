"""``python -m tiger.cli``."""

from tiger.cli.main import main

if __name__ == "__main__":
    main()
