"""Next items under a catalog's prefix trie: ``model.generate(histories, custom_generate=repository)``.

A copy of this file is ``custom_generate/generate.py`` of every saved recommender. transformers runs it for those who
allow it (``trust_remote_code=True``); tiger itself never loads code of a repository. See
https://arxiv.org/abs/2305.05065 for the method.
"""

try:
    from tiger.retriever.repository_generation import generate_items
except ImportError as error:
    raise ImportError(
        "this model searches with the tiger-recommender library: pip install tiger-recommender"
    ) from error


def generate(model, **arguments):
    """Return tokens of the ``num_return_sequences`` most probable items of each history, best first.

    Args:
        model: loaded from this repository, or from a copy of it.
        arguments: of ``generate``: ``inputs``, ``num_beams``, ``num_return_sequences``, ``excluded``, ...
    """
    return generate_items(model, **arguments)
