"""Sweeps of a stage's numbers with Ray Tune, and what the workflow makes of them.

A trial is real training of the stage with other numbers, whose files lie in a folder beside the
result. It can be resumed as any training can, so a sweep that was killed is simply run again, and
trials that were cut off go on. What a trial that is over has left on disk stands for it in later
sweeps: a larger one trains none of a smaller one's again.

What is tried is in `adafocus.sweeps.space`, how in `trials`, what comes of it in `result`.
"""

from adafocus.sweeps.result import SweepError, best_trial, use_best
from adafocus.sweeps.run import sweep

__all__ = ["SweepError", "best_trial", "sweep", "use_best"]
