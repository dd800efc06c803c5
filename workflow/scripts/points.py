from pathlib import Path

from job import data_of, job, run_options

with job(snakemake):
    from adafocus.evaluation.curves import write_points

    write_points(
        Path(snakemake.input.checkpoint),
        data=data_of(snakemake),
        experiment=snakemake.wildcards.experiment,
        output=Path(snakemake.output[0]),
        anew=snakemake.config["anew"],
        **run_options(snakemake),
    )
