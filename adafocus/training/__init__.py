"""Training: the engine, optimizers, PPO and resume; it knows nothing of a method."""
