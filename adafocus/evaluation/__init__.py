"""Evaluation: metrics, cost, the evaluation run and the summary of all results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adafocus.evaluation.run import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the training engine needs the metrics alone.
    if name == "evaluate":
        from adafocus.evaluation.run import evaluate

        return evaluate
    raise AttributeError(f"module 'adafocus.evaluation' has no attribute {name!r}")
