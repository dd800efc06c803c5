from pathlib import Path

from job import data_of, job, recipe_of, run_options

with job(snakemake):
    from adafocus.training import train

    patch_size = snakemake.wildcards.get("patch_size")
    train(
        recipe_of(snakemake),
        snakemake.params.stage,
        int(patch_size) if patch_size else None,
        data=data_of(snakemake),
        init=[Path(path) for path in snakemake.input.get("init", [])],
        output=Path(snakemake.output.checkpoint),
        curves=Path(snakemake.output.curves),
        **run_options(snakemake),
    )
