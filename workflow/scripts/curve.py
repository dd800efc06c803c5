from pathlib import Path

from job import job, recipe_of

with job(snakemake):
    from adafocus.evaluation.curves import write_curve

    points = [Path(path) for path in snakemake.input]
    beside = {
        name: [Path(path) for path in paths] for name, paths in snakemake.params.beside.items()
    }
    stem = Path(snakemake.output.csv).with_suffix("")
    write_curve(points, recipe_of(snakemake), stem, beside)
