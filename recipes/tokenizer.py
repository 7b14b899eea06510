"""Item texts -> embeddings -> codes: fit a tokenizer on a dataset directory.

    python recipes/tokenizer.py recipes/demo/tokenizer.yaml [--key value ...]

Writes the semantic IDs, the quantizer, the encoder, ``report.json`` and ``code_usage.png`` to ``output_dir``.
"""

from __future__ import annotations

from tiger.cli.common import friendly_errors
from tiger.training.arguments import parse_arguments
from tiger.training.tokenizer import TokenizerArguments, train_tokenizer


def main() -> None:
    train_tokenizer(*parse_arguments([TokenizerArguments]))


if __name__ == "__main__":
    with friendly_errors():
        main()
