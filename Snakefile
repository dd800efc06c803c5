# So that `snakemake` finds the workflow both in the repository and where conventions look for it.
include: "workflow/Snakefile"
