"""A trained model at work: predictions of files, other runtimes, MLflow's models."""
