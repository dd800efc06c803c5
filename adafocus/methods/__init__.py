"""Methods: how a model is trained, and the run that trains one stage of it."""

from adafocus.methods.run import STAGES, begin, fingerprints, train

__all__ = ["STAGES", "begin", "fingerprints", "train"]
