from pathlib import Path

from job import job

with job(snakemake):
    from adafocus.evaluation.runtimes import write_runtimes
    from adafocus.evaluation.summary import write_summary

    results = sorted({*snakemake.input, *snakemake.params.made_before})
    write_summary([Path(result) for result in results], Path("results/summary"))
    write_runtimes(Path("results/benchmarks"), Path("results/runtimes"))
