from pathlib import Path

from job import data_of, job, launch, run_options

with job(snakemake) as lock:
    from adafocus.evaluation import evaluate

    checkpoint = snakemake.input.checkpoint
    options = {
        "data": data_of(snakemake),
        "output": Path(snakemake.output.result),
        "plots": Path(snakemake.output.sheet).parent,
        "experiment": snakemake.wildcards.experiment,
        "anew": snakemake.config["anew"],
        **run_options(snakemake),
    }
    if snakemake.resources.get("gpu", 0) > 1:
        launch(snakemake, lock, "evaluate", checkpoint, **options)
    else:
        evaluate(Path(checkpoint), **options)
