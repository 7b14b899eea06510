"""Next items under a catalog's prefix trie: ``model.generate(histories, custom_generate=repository)``.

A copy of this file is ``custom_generate/generate.py`` of every saved recommender, for transformers, which asks before
it runs code of a repository. The library runs none: :func:`tiger.generate_items` gives the same from what is
installed. See https://arxiv.org/abs/2305.05065 for the method.
"""

try:
    from tiger.retriever.repository_generation import OF_THE_CODE, generate_items
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
    return generate_items(model, **{name: given for name, given in arguments.items() if name not in OF_THE_CODE})
