"""Parts of a recommender as attributes, and where and in which precision they compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import pyarrow as pa
import torch
from transformers import T5ForConditionalGeneration

from tiger.embeddings.base import ItemEncoder
from tiger.rankers.base import Ranker
from tiger.recommender.loading import check_device, float_dtype
from tiger.recommender.state import RecommenderState
from tiger.retriever.memory import ItemMemory
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie

T = TypeVar("T")
Parts = TypeVar("Parts", bound="RecommenderParts")


class _Part(Generic[T]):
    """An attribute of a recommender that lies in its state; setting it makes a new state."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, recommender: None, owner: type) -> _Part[T]: ...
    @overload
    def __get__(self, recommender: RecommenderParts, owner: type) -> T: ...

    def __get__(self, recommender: RecommenderParts | None, owner: type) -> _Part[T] | T:
        return self if recommender is None else getattr(recommender.state, self.name)

    def __set__(self, recommender: RecommenderParts, value: T) -> None:
        changed: dict[str, Any] = {self.name: value}
        state = replace(recommender.state, **changed)
        state.check()
        recommender.state = state


class RecommenderParts:
    """Base of :class:`tiger.TigerRecommender`: its state, part by part."""

    state: RecommenderState
    model = _Part[T5ForConditionalGeneration]()
    tokenizer = _Part[SemanticIdTokenizer]()
    encoder = _Part[ItemEncoder | None]()
    items = _Part[pa.Table | None]()
    ranker = _Part[Ranker | None]()
    unseen = _Part[np.ndarray]()
    max_history = _Part[int]()
    training = _Part[dict[str, Any]]()
    memory = _Part[ItemMemory | None]()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the T5's weights and matrix products."""
        return self.model.dtype

    @property
    def trie(self) -> SemanticIdTrie:
        """The trie over the tokenizer's items, on the model's device."""
        state = self.state
        return state.trie_on(state.model.device)

    def to(
        self: Parts, *places: str | int | torch.device | torch.dtype, device: Any = None, dtype: Any = None
    ) -> Parts:
        """Move the T5 and the ranker to a device, or the T5 to a precision: in place, as a model of torch.

        Args:
            places: a device, a dtype or both; or by name:
            device: such as ``cuda``.
            dtype: ``float32``, ``float16`` or ``bfloat16``. Rankers stay in float32.

        Raises:
            DataError: the device is not there, or the dtype is another.
        """
        for place in places:
            if isinstance(place, torch.dtype):
                dtype = place
            else:
                device = place
        if device is not None:
            device = check_device(device)
            self.model.to(device)
            if self.ranker is not None:
                self.ranker.to(device)
        if dtype is not None:
            cast(torch.nn.Module, self.model).to(float_dtype(dtype))
        return self

    def cpu(self: Parts) -> Parts:
        return self.to("cpu")

    def cuda(self: Parts, device: str | int | torch.device = "cuda") -> Parts:
        return self.to(device)

    def float(self: Parts) -> Parts:
        return self.to(torch.float32)

    def half(self: Parts) -> Parts:
        return self.to(torch.float16)

    def bfloat16(self: Parts) -> Parts:
        return self.to(torch.bfloat16)

    def __repr__(self) -> str:
        tokenizer = self.tokenizer
        told = {
            "items": f"{len(tokenizer):,}",
            "levels": f"{tokenizer.num_codebooks} of {tokenizer.codebook_size} codes",
            "tokens": tokenizer.tokens,
            "ranker": "none" if self.ranker is None else type(self.ranker).__name__,
            "memory": "none" if self.memory is None else f"{self.memory.size:,} pairs",
            "encoder": "none" if self.encoder is None else type(self.encoder).__name__,
            "weights": f"{self.model.num_parameters():,} in {str(self.dtype).removeprefix('torch.')} on {self.device}",
        }
        return f"{type(self).__name__}({'; '.join(f'{name}: {value}' for name, value in told.items())})"
