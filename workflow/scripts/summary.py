from pathlib import Path

from job import job

with job(snakemake):
    from adafocus.evaluation.runtimes import write_runtimes
    from adafocus.evaluation.summary import write_summary
    from adafocus.recipe import parse_recipe

    results = sorted({*snakemake.input, *snakemake.params.made_before})
    recipes = {
        name: parse_recipe(values, source=f"config/recipes/{name}.yaml")
        for name, values in snakemake.config["recipes"].items()
    }
    write_summary([Path(result) for result in results], Path("results/summary"), recipes)
    write_runtimes(Path("results/benchmarks"), Path("results/runtimes"))
