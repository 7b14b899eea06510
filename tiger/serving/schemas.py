"""Requests and responses of the service, with all their limits."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tiger.data.readers import MAX_SECONDS
from tiger.retriever.search_options import option_default, option_help
from tiger.serving.query import FILTER_LIMITS

# Limits of a request: they bound its work and memory. Set by hand, not tuned.
MAX_HISTORIES = 64
MAX_HISTORY = 1000
MAX_CANDIDATES = 1000
MAX_NEW_ITEMS = 256
MAX_K = 200
MAX_BEAMS = 500
MAX_FIELDS = 16
MAX_FILTER_IDS = 10_000
# JSON does not tell integers from floats: 10.0 is accepted as an integer.
_AsWhole = BeforeValidator(lambda value: int(value) if type(value) is float and value % 1 == 0 else value)
# Bounds come before the validator, otherwise the schema would lack them.
Count = Annotated[int, Field(ge=1, le=MAX_K), _AsWhole]
Beams = Annotated[int, Field(ge=1, le=MAX_BEAMS), _AsWhole]
# `Query.check` refuses what is out of range, and says what to do.
Seconds = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": MAX_SECONDS}), _AsWhole]
Seed = Annotated[int, Field(ge=0, lt=2**63), _AsWhole]
ItemId = Annotated[str, Field(min_length=1, max_length=200)]
# Lists fail at their first wrong entry: to list a hundred thousand would keep other requests waiting.
History = Annotated[list[ItemId], Field(max_length=MAX_HISTORY, fail_fast=True)]
Histories = Annotated[
    list[History],
    Field(
        min_length=1,
        max_length=MAX_HISTORIES,
        fail_fast=True,
        description="Item ids per user, oldest first; may be empty",
    ),
]
Times = Annotated[list[Seconds], Field(max_length=MAX_HISTORY, fail_fast=True)]
At = Annotated[
    Seconds | None,
    Field(
        description="When recommendations are wanted, in seconds since 1970, not before the last event; "
        "default: the time of the last event"
    ),
]
_TIMES = "in whole seconds since 1970, never falling. Read by the second stage, whose answers are worse without"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _search_option(name: str, more: str = "") -> Any:
    """A field with the default and the help text that the option has everywhere."""
    return Field(option_default(name), description=option_help(name).capitalize() + more)


class RecommendRequest(_Body):
    """Items that may come next after each history."""

    histories: Histories
    users: list[ItemId | None] | None = Field(
        None,
        max_length=MAX_HISTORIES,
        fail_fast=True,
        description="For a model with user tokens: a user id, or null, per history",
    )
    timestamps: Annotated[list[Times | None], Field(min_length=1, max_length=MAX_HISTORIES, fail_fast=True)] | None = (
        Field(None, description=f"When each history's events took place, a list (or null) per history, {_TIMES}")
    )
    at: At = None
    k: Count = Field(10, description="Items per history")
    num_beams: Beams = _search_option("num_beams", "; at least k are kept")
    exclude_history: bool = _search_option("exclude_history")
    rank: bool = Field(True, description="Let the ranker order the candidates, where there is one")
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = _search_option("temperature")
    seed: Seed | None = _search_option("seed", "; a request with a seed has a batch of its own")
    unseen_share: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of the k places for items added since training"
    )
    filter: (
        Annotated[str, Field(min_length=1, max_length=FILTER_LIMITS.length)]
        | Annotated[list[ItemId], Field(max_length=MAX_FILTER_IDS, fail_fast=True)]
        | None
    ) = Field(
        None,
        description="Only items for which this is true, by columns of the item table, such as "
        "price < 20 and brand in ('Acme', 'Bolt'); or only items with these ids",
    )
    strict: bool = Field(False, description="Refuse unknown items (404) instead of leaving them out")
    fields: list[ItemId] = Field(
        default_factory=list,
        max_length=MAX_FIELDS,
        fail_fast=True,
        description="Columns of the item table to return with each item, such as title",
    )
    model_config = _Body.model_config | {
        "json_schema_extra": {
            "examples": [
                {"histories": [["item-1", "item-2"], ["item-3"]], "k": 5},
                {"histories": [["item-1", "item-2"]], "timestamps": [[1700000000, 1700086400]], "k": 5},
                {"histories": [["item-1", "item-2"]], "filter": ["item-3", "item-4"], "k": 5},
            ]
        }
    }

    @model_validator(mode="after")
    def _one_user_per_history(self) -> RecommendRequest:
        if self.users is not None and len(self.users) != len(self.histories):
            raise ValueError("users must be one per history, or null")
        return self


class Recommendation(BaseModel):
    """Items, best first, and their scores: the ranker's logits where it ordered them, else log-probabilities."""

    items: list[str]
    scores: list[float]
    unknown: list[str] = Field(description="Items of the history that the catalog lacks; they were left out")
    fields: list[dict[str, Any]] | None = Field(None, description="One object per item, where `fields` were asked for")


class FilterReport(BaseModel):
    allowed: int = Field(description="Number of items that the filter allows; with 0, the answers are empty")
    unknown: list[str] = Field(description="Ids of the filter that the catalog lacks")


class RecommendAnswer(BaseModel):
    recommendations: list[Recommendation]
    filter: FilterReport | None = Field(None, description="Where a filter was given")
    catalogue: int = Field(description="Number of updates of the catalog before this answer")


class CandidateList(_Body):
    history: History
    candidates: list[ItemId] = Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True)
    timestamps: Times | None = Field(None, description=f"When the history's events took place, {_TIMES}")


class RankRequest(_Body):
    """Candidates to order, per history; unknown candidates are an error (404)."""

    lists: list[CandidateList] = Field(min_length=1, max_length=MAX_HISTORIES, fail_fast=True)
    at: At = None
    strict: bool = Field(False, description="Refuse unknown items of histories (404) instead of leaving them out")
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"lists": [{"history": ["item-1"], "candidates": ["item-2", "item-3"]}]}]}
    }


class NewItem(_Body):
    item_id: ItemId
    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="What the encoder embeds")


class AddRequest(_Body):
    """Items to add to the catalog. Known items are left as they are."""

    items: list[NewItem] = Field(min_length=1, max_length=MAX_NEW_ITEMS, fail_fast=True)
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"items": [{"item_id": "new-1", "text": "Title: Folding lantern"}]}]}
    }


class Updated(BaseModel):
    added: list[str]
    known: list[str] = Field(description="Items that were there before")
    removed: list[str]
    items: int = Field(description="Number of items in the catalog now")
    catalogue: int = Field(description="Number of updates of the catalog so far")


class Item(BaseModel):
    """An item of the catalog."""

    item_id: str
    semantic_id: list[int] = Field(description="Codes per level, and the collision token")
    unseen: bool = Field(description="Whether it was added, or got a new semantic ID, since training")
    fields: dict[str, Any] = Field(description="The columns of the item table; none where it was saved without")
    catalogue: int = Field(description="Number of updates of the catalog before this answer")


class ReloadAnswer(BaseModel):
    model: str = Field(description="Digest of the model that answers now, the header X-Tiger-Model")
    previous: str = Field(description="Digest of the model before")
    items: int = Field(description="Number of items in the catalog now")
    catalogue: int = Field(description="Number of updates of the catalog so far, this one among them")
    lost: int = Field(description="Number of updates that the directory did not hold and that are gone")


class Probe(BaseModel):
    ok: bool


class Health(BaseModel):
    live: bool
    ready: bool
    items: int
    catalogue: int = Field(description="Number of updates of the catalog so far")
    fingerprint: str = Field(description="Fingerprint of the semantic IDs that the model was trained with")
    model: str = Field(description="Digest of the model's tiger.json, the header X-Tiger-Model of each answer")
    ranker: bool
    can_add: bool
    queued: int = Field(description="Number of waiting histories")
    behind: str | None = Field(None, description="Why updates of other services can't be followed, if that is so")
    versions: dict[str, str]


class Problem(BaseModel):
    error: str = Field(description="The reason, in one line")
