from job import data_of, job, recipe_of

with job(snakemake, data_of(snakemake) / "splits"):
    from adafocus.data.splits import write_splits

    write_splits(recipe_of(snakemake), data_of(snakemake))
