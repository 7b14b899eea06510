"""Candidates and targets of users as data that trees learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiger.rankers.two_stage.candidates import Proposals
from tiger.rankers.two_stage.features import reads_time
from tiger.utils.errors import DataError

if TYPE_CHECKING:
    import lightgbm


class NothingToLearn(DataError):
    """No list of candidates holds the next item."""


@dataclass(frozen=True)
class RankingExamples:
    """Candidates and targets of users, int [n], as data for LightGBM; the times of ``no_times``, bool [n], are hidden.

    Args:
        names: of all columns.
        columns: names of those that the trees read.
    """

    proposals: Proposals
    targets: np.ndarray
    no_times: np.ndarray
    names: list[str]
    columns: list[str]

    def lists(self, users: np.ndarray) -> lightgbm.Dataset:
        """The lists of these users (bool [n]) that hold their target, without empty places."""
        import lightgbm

        hits = self.proposals.rows == self.targets[:, None]
        chosen = np.flatnonzero(users & hits.any(axis=1))
        if not len(chosen):
            raise NothingToLearn("no target is among its candidates: there is nothing to learn an order from.")
        real = self.proposals.rows[chosen] >= 0
        table = self.proposals.columns[chosen][real][:, [self.names.index(name) for name in self.columns]]
        hidden = np.flatnonzero(np.repeat(self.no_times[chosen], real.sum(axis=1)))
        for place, name in enumerate(self.columns):
            if reads_time(name):
                table[hidden, place] = np.nan
        return lightgbm.Dataset(
            table,
            label=hits[chosen][real].astype(np.int32),
            group=real.sum(axis=1),
            feature_name=[name.replace(":", "").replace(",", "").replace(" ", "_") for name in self.columns],
        )
