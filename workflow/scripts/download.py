from job import data_of, job, recipe_of

with job(snakemake):
    from adafocus.data.sources import fetch

    fetch(recipe_of(snakemake), data_of(snakemake), workers=snakemake.threads)
