from job import data_of, job, recipe_of

with job(snakemake, data_of(snakemake) / "splits"):
    from adafocus.data.sources import link_shared
    from adafocus.data.splits import write_splits

    link_shared(recipe_of(snakemake), data_of(snakemake))
    write_splits(recipe_of(snakemake), data_of(snakemake))
