"""What is asked of the service over HTTP and what it answers, with all bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_HISTORIES = 64
MAX_HISTORY = 1000
MAX_CANDIDATES = 1000
MAX_NEW_ITEMS = 256
MAX_K = 200
MAX_BEAMS = 500
# JSON has one kind of number: 10.0 is a whole one too.
_AsWhole = BeforeValidator(lambda value: int(value) if type(value) is float and value % 1 == 0 else value)
# The bounds come before it, or the schema would not have them.
Count = Annotated[int, Field(ge=1, le=MAX_K), _AsWhole]
Beams = Annotated[int, Field(ge=1, le=MAX_BEAMS), _AsWhole]
Seed = Annotated[int, Field(ge=0, lt=2**63), _AsWhole]
ItemId = Annotated[str, Field(min_length=1, max_length=200)]
History = Annotated[list[ItemId], Field(max_length=MAX_HISTORY)]
Histories = Annotated[
    list[History],
    Field(min_length=1, max_length=MAX_HISTORIES, description="A list of item ids a user, oldest first; may be empty"),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RecommendRequest(_Body):
    """What may come next after each history."""

    histories: Histories
    k: Count = Field(10, description="Items a history")
    num_beams: Beams = Field(50, description="Candidates kept while decoding; at least k are")
    exclude_history: bool = Field(True, description="Leave out items of the history")
    rank: bool = Field(True, description="Let the ranker order the beams, where there is one")
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        None, description="Sample, more varied the higher"
    )
    seed: Seed | None = Field(None, description="Of sampling; such a request has a batch of its own")
    unseen_share: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of the places for items added since training"
    )
    strict: bool = Field(False, description="Refuse unknown items (404) instead of leaving them out")
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"histories": [["item-1", "item-2"], ["item-3"]], "k": 5}]}
    }


class Recommendation(BaseModel):
    """Items, best first, and their scores: the ranker's logits where it ordered them, else log-probabilities."""

    items: list[str]
    scores: list[float]
    unknown: list[str] = Field(description="Items of the history that the catalogue lacks; they were left out")


class RecommendAnswer(BaseModel):
    recommendations: list[Recommendation]
    catalogue: int = Field(description="How many updates the catalogue had seen")


class CandidateList(_Body):
    history: History
    candidates: list[ItemId] = Field(min_length=1, max_length=MAX_CANDIDATES)


class RankRequest(_Body):
    """Candidates to put in the order in which each history's owner may want them; unknown ones are an error (404)."""

    lists: list[CandidateList] = Field(min_length=1, max_length=MAX_HISTORIES)
    strict: bool = Field(False, description="Refuse unknown items of histories (404) instead of leaving them out")
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"lists": [{"history": ["item-1"], "candidates": ["item-2", "item-3"]}]}]}
    }


class NewItem(_Body):
    item_id: ItemId
    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="What the encoder embeds")


class AddRequest(_Body):
    """Items to recommend from now on. Those that are known already are left as they are."""

    items: list[NewItem] = Field(min_length=1, max_length=MAX_NEW_ITEMS)
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"items": [{"item_id": "new-1", "text": "Title: Folding lantern"}]}]}
    }


class Updated(BaseModel):
    added: list[str]
    known: list[str] = Field(description="Items that were there before")
    removed: list[str]
    items: int = Field(description="Items in the catalogue now")
    catalogue: int = Field(description="How many updates it has seen")


class Health(BaseModel):
    live: bool
    ready: bool
    items: int
    catalogue: int = Field(description="How many updates the catalogue has seen")
    fingerprint: str = Field(description="Of the semantic IDs that the model was trained with")
    ranker: bool
    can_add: bool
    queued: int = Field(description="Histories that wait")
    versions: dict[str, str]


class Problem(BaseModel):
    error: str = Field(description="What is wrong, in one line")
