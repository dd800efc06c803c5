from pathlib import Path

from job import job

with job(snakemake):
    from adafocus.evaluation.seeds import write_seeds

    write_seeds([Path(result) for result in snakemake.input], Path(snakemake.output[0]))
