from job import data_of, job, recipe_of

with job(snakemake):
    from adafocus.data.frames import extract

    shard = int(snakemake.wildcards.shard)
    extract(recipe_of(snakemake), data_of(snakemake), shard, threads=snakemake.threads)
