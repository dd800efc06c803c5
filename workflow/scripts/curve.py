from pathlib import Path

from job import job, recipe_of

with job(snakemake):
    from adafocus.evaluation.curves import write_curve

    points = [Path(path) for path in snakemake.input]
    write_curve(points, recipe_of(snakemake), Path(snakemake.output.csv).with_suffix(""))
