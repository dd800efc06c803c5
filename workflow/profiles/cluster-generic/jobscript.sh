#!/bin/sh
# properties = {properties}
# A job that comes to its end leaves a mark, which one that is killed cannot: see status.sh.
({exec_job}) && mkdir -p .snakemake/finished && touch .snakemake/finished/$PBS_JOBID
