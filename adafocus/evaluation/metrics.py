"""Metrics of video-level predictions, in percent."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def compute_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1, top-5 and mean average precision.

    A video with several labels counts as right where any of them is predicted. Average precision is
    that of the softmax over all videos, class by class; a class without a positive video is left
    out of the mean.

    Args:
        logits: (N, K).
        labels: bool (N, K).

    Returns:
        ``top1``, ``top5`` and ``mAP`` in percent.
    """
    scores, truth = _scores(logits), labels.cpu().numpy()
    hits = _hits(scores, truth)
    precision = _precision(scores, truth)
    return {
        "top1": 100 * float(hits[:, :1].any(axis=1).mean()),
        "top5": 100 * float(hits[:, :5].any(axis=1).mean()),
        "mAP": 100 * float(precision[truth.any(axis=0)].mean()),
    }


def metric_by_class(logits: Tensor, labels: Tensor, metric: str) -> np.ndarray:
    """One metric of each class: the share of its videos that are right, or its average precision.

    Args:
        logits: (N, K).
        labels: bool (N, K).
        metric: ``top1``, ``top5`` or ``mAP``.

    Returns:
        (K,) in percent; NaN for a class without a video.
    """
    scores, truth = _scores(logits), labels.cpu().numpy()
    if metric == "mAP":
        return 100 * _precision(scores, truth)
    hits = _hits(scores, truth)[:, : {"top1": 1, "top5": 5}[metric]]
    right: np.ndarray = np.any(hits, axis=1)
    videos = truth.sum(axis=0)
    shares = np.full(len(videos), np.nan)
    np.divide(100 * (truth & right[:, None]).sum(axis=0), videos, out=shares, where=videos > 0)
    return shares


def _scores(logits: Tensor) -> np.ndarray:
    return logits.float().softmax(-1).cpu().numpy()


def _hits(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """bool (N, K): whether a video's most, second most... probable class is one of its labels."""
    return np.take_along_axis(truth, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def _precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(K,): average precision of each class, NaN for one without a video."""
    # Imported here, as it takes long and a job may start without it.
    from sklearn.metrics import average_precision_score

    present: np.ndarray = np.any(truth, axis=0)
    precision = np.full(len(present), np.nan)
    precision[present] = average_precision_score(
        truth[:, present], scores[:, present], average=None
    )
    return precision
