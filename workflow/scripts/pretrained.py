from pathlib import Path

from job import job, recipe_of

with job(snakemake):
    from adafocus.model.checkpoint import check_pretrained

    check_pretrained(recipe_of(snakemake), Path(snakemake.output[0]))
