# So that `snakemake` finds the workflow both here and where conventions look for it.
include: "workflow/Snakefile"


make_default("all")
