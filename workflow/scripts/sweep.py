from pathlib import Path

from job import data_of, job, recipe_of, run_options, training_options

with job(snakemake):
    from adafocus.recipe import Sweep
    from adafocus.sweeps import sweep

    recipe = recipe_of(snakemake)
    sweep(
        recipe,
        next(spec.name for spec in recipe.table if spec.ending == snakemake.wildcards.stage),
        int(snakemake.wildcards.patch_size),
        Sweep(**snakemake.config["sweep"]),
        data=data_of(snakemake),
        init=[Path(path) for path in snakemake.input.init],
        output=Path(snakemake.output.result),
        plot=Path(snakemake.output.plot),
        **training_options(snakemake),
        # A Ray cluster has GPUs where this job has none.
        **run_options(snakemake) | {"device": snakemake.config["device"]},
    )
