import sys

from snakemake.utils import min_version

min_version("9.27")

# The package of this checkout, also in an environment where it is not installed.
sys.path.insert(0, workflow.basedir)


report: "workflow/report/workflow.rst"


include: "workflow/rules/internals.smk"
include: "workflow/rules/configuration.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"


rule all:
    default_target: True
    input:
        chains["all"],
        over_seeds(chains["all"]),
        "results/summary.md",


for dataset in recipes:
    check_name(dataset)

    rule:
        name:
            dataset
        input:
            chains[dataset],
            over_seeds(chains[dataset]),
            "results/summary.md",
