"""``tiger.evaluation.metrics`` as metrics of the Hugging Face ``evaluate`` library.

They need no network. A file of its own, because a script in ``recipes/``, where ``evaluate.py`` lies, would import
that one by this name.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from tiger.evaluation.metrics import auc, grouped_auc, next_item_metrics


class NextItemMetrics(evaluate.Metric):
    """Recall and NDCG at k as an ``evaluate`` metric: predictions are ranked item rows, references the true items.

    Example:
        >>> NextItemMetrics().compute(predictions=[[3, 1], [2, 0]], references=[1, 2], ks=(2,))["recall@2"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Recall and NDCG at k of the next item, one true item per row.",
            citation="",
            inputs_description="predictions: int [n, K], item rows, best first, -1 pads; references: int [n]; ks.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("int64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
        return next_item_metrics(np.asarray(predictions), np.asarray(references), ks)


class GroupedAUC(evaluate.Metric):
    """Grouped AUC, with AUC beside it, as an ``evaluate`` metric: predictions are scores, references labels 0 or 1.

    Example:
        >>> GroupedAUC().compute(predictions=[0.1, 0.9], references=[0, 1], groups=[7, 7])["grouped_auc"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="AUC within each group, averaged by group size (arXiv 1706.06978), and AUC over all rows.",
            citation="",
            inputs_description="predictions: float [n], scores; references: int [n], 0 or 1; groups: int [n].",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("int64"),
                    "groups": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, groups) -> dict[str, float]:
        labels, scores = np.asarray(references), np.asarray(predictions)
        return {"grouped_auc": grouped_auc(labels, scores, np.asarray(groups)), "auc": auc(labels, scores)}
