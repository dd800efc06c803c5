"""The loader that models in MLflow's stores name; so it keeps this place. See `deploy.serving`."""

from adafocus.deploy.serving import _load_pyfunc

__all__ = ["_load_pyfunc"]
