from job import data_of, job, recipe_of

with job(snakemake):
    from adafocus.data.sources import fetch
    from adafocus.data.splits import check_names

    fetch(recipe_of(snakemake), data_of(snakemake), workers=snakemake.threads)
    check_names(recipe_of(snakemake), data_of(snakemake))
