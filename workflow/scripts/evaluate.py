from pathlib import Path

from job import data_of, job, run_options

with job(snakemake):
    from adafocus.evaluation import evaluate

    [checkpoint] = snakemake.input.checkpoint
    evaluate(
        Path(checkpoint),
        data=data_of(snakemake),
        output=Path(snakemake.output.result),
        plots=Path(snakemake.output.sheet).parent,
        **run_options(snakemake),
    )
