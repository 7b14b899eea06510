"""Parts of a state as attributes of what holds the state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar, overload

from tiger.recommender.state import RecommenderState

T = TypeVar("T")


class _Holder(Protocol):
    state: RecommenderState


class StatePart(Generic[T]):
    """An attribute of a recommender that lies in its state; setting it makes a new state."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, recommender: None, owner: type) -> StatePart[T]: ...
    @overload
    def __get__(self, recommender: _Holder, owner: type) -> T: ...

    def __get__(self, recommender: _Holder | None, owner: type) -> StatePart[T] | T:
        return self if recommender is None else getattr(recommender.state, self.name)

    def __set__(self, recommender: _Holder, value: T) -> None:
        changed: dict[str, Any] = {self.name: value}
        state = replace(recommender.state, **changed)
        state.check()
        recommender.state = state
