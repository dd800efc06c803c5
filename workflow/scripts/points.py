from pathlib import Path

from job import data_of, job, run_options

with job(snakemake):
    from adafocus.evaluation.curves import write_points

    [checkpoint] = snakemake.input.checkpoint
    write_points(
        Path(checkpoint),
        data=data_of(snakemake),
        experiment=snakemake.wildcards.experiment,
        output=Path(snakemake.output[0]),
        **run_options(snakemake),
    )
