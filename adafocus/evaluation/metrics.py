"""Accuracy of video-level predictions, in percent."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
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
    # Imported here, as it takes long and a job may start without it.
    from sklearn.metrics import average_precision_score

    scores = logits.float().softmax(-1).cpu().numpy()
    truth = labels.cpu().numpy()
    ranked = np.take_along_axis(truth, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    present = truth.any(axis=0)
    precision = average_precision_score(truth[:, present], scores[:, present], average="macro")
    return {
        "top1": 100 * float(ranked[:, :1].any(axis=1).mean()),
        "top5": 100 * float(ranked[:, :5].any(axis=1).mean()),
        "mAP": 100 * float(precision),
    }
