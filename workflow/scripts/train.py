from pathlib import Path

from job import data_of, job, recipe_of, run_options

with job(snakemake):
    from adafocus.sweeps import take_over, use_best
    from adafocus.training import train

    patch_size = snakemake.wildcards.get("patch_size")
    output = Path(snakemake.output.checkpoint)
    sweeps = [Path(path) for path in snakemake.input.get("sweeps", [])]
    recipe = use_best(recipe_of(snakemake), sweeps)
    if sweeps:
        take_over(sweeps[-1], output)
    train(
        recipe,
        snakemake.params.stage,
        int(patch_size) if patch_size else None,
        data=data_of(snakemake),
        init=[Path(path) for path in snakemake.input.get("init", [])],
        output=output,
        curves=Path(snakemake.output.curves),
        checkpoint_minutes=snakemake.config["checkpoint_minutes"],
        **run_options(snakemake),
    )
