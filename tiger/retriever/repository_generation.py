"""``generate`` under the prefix trie of a model's repository."""

from __future__ import annotations

import weakref
from dataclasses import fields
from typing import Any

import torch
from transformers import T5ForConditionalGeneration

from tiger.retriever.beam_search import trie_generate
from tiger.retriever.config import check_pair
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError
from tiger.utils.hub import DownloadOptions

# Arguments of ``generate`` that say from where a repository's code comes.
OF_THE_CODE = {field.name for field in fields(DownloadOptions)}
_tries: weakref.WeakKeyDictionary[T5ForConditionalGeneration, SemanticIdTrie] = weakref.WeakKeyDictionary()


def generate_items(
    model: Any,
    inputs: torch.Tensor | None = None,
    trie: SemanticIdTrie | None = None,
    **options: Any,
) -> Any:
    """Generate the most probable items under the prefix trie of the repository that a model was loaded from.

    Args:
        model: a :class:`tiger.retriever.model.TigerT5`, or its weights in a plain T5.
        inputs: int64 [B, S], histories, see :meth:`SemanticIdTokenizer.encode_history`.
        trie: on the model's device; None: that of the repository, read once.
        options: of ``generate``: ``num_beams``, ``num_return_sequences``, and those of
            :func:`tiger.retriever.beam_search.trie_generate`.

    Returns:
        Tokens, int64 [B * num_return_sequences, 1 + depth], see :func:`tiger.retriever.beam_search.trie_generate`.

    Raises:
        DataError: it is not known where the model was loaded from, or what lies there is another catalog's.
    """
    known = {name: value for name, value in options.items() if value is not None}
    trie = _repository_trie(model) if trie is None else trie
    known.setdefault("max_new_tokens", trie.depth)
    return model.generate(inputs, custom_generate=trie_generate, trie=trie, **known)


def _repository_trie(model: T5ForConditionalGeneration) -> SemanticIdTrie:
    if model not in _tries:
        name = model.name_or_path
        if not name:
            raise DataError("the model was not loaded from a repository: give generate the catalog's trie=.")
        tokenizer = SemanticIdTokenizer.from_pretrained(name, revision=getattr(model.config, "_commit_hash", None))
        check_pair(model, tokenizer)
        _tries[model] = SemanticIdTrie.build(tokenizer.token_table)
    _tries[model] = _tries[model].to(model.device)
    return _tries[model]
