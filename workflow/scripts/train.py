from pathlib import Path
from tempfile import TemporaryDirectory

from job import data_of, job, launch, recipe_of, run_options, training_options

with job(snakemake) as lock:
    from adafocus.methods import train
    from adafocus.sweeps import best_trial, use_best

    output = Path(snakemake.output.checkpoint)
    sweeps = [Path(path) for path in snakemake.input.get("sweeps", [])]
    recipe = use_best(recipe_of(snakemake), sweeps)
    swept = sweeps and sweeps[-1].stem == output.stem
    patch_size = snakemake.wildcards.get("patch_size")
    options = {
        "stage": snakemake.params.stage,
        "patch_size": int(patch_size) if patch_size else None,
        "data": data_of(snakemake),
        "init": [Path(path) for path in snakemake.input.get("init", [])],
        "output": output,
        "curves": Path(snakemake.output.curves),
        "trial": best_trial(sweeps[-1]) if swept else None,
        "checkpoint_minutes": snakemake.config["checkpoint_minutes"],
        **training_options(snakemake),
        **run_options(snakemake),
    }
    if snakemake.resources.get("gpu", 0) > 1:
        with TemporaryDirectory() as folder:
            launch(snakemake, lock, "train", recipe=recipe.write(Path(folder)), **options)
    else:
        train(recipe, **options)
