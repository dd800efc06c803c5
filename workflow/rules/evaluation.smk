rule evaluate:
    input:
        splits=splits_of,
        checkpoint=checkpoints_of("{dataset}_{patch_size}_stage{stage}"),
    output:
        result="results/{dataset}_{patch_size}_stage{stage}.json",
        predictions="results/{dataset}_{patch_size}_stage{stage}.predictions.npz",
        sheet="results/plots/{dataset}_{patch_size}_stage{stage}_sheet.png",
        right="results/plots/{dataset}_{patch_size}_stage{stage}_right.png",
        wrong="results/plots/{dataset}_{patch_size}_stage{stage}_wrong.png",
        steps="results/plots/{dataset}_{patch_size}_stage{stage}_steps.svg",
        patches="results/plots/{dataset}_{patch_size}_stage{stage}_patches.svg",
        confusion="results/plots/{dataset}_{patch_size}_stage{stage}_confusion.svg",
    log:
        "results/logs/{dataset}_{patch_size}_stage{stage}_evaluation.log",
    benchmark:
        "results/benchmarks/{dataset}_{patch_size}_stage{stage}_evaluation.tsv"
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=16000,
        runtime=480,
        gpu=gpus_per_job,
    params:
        seed=config["seed"],
    message:
        "{wildcards.dataset}: evaluating stage {wildcards.stage} with patches of"
        " {wildcards.patch_size} pixels"
    script:
        "../scripts/evaluate.py"


rule summary:
    input:
        lambda wildcards: results_asked_for(),
    output:
        multiext("results/summary", ".csv", ".md", ".svg"),
    log:
        "results/logs/summary.log",
    benchmark:
        "results/benchmarks/summary.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
        gpu=0,
    params:
        made_before=lambda wildcards: results_made_before(),
    message:
        "gathering all results in results/summary.md"
    script:
        "../scripts/summary.py"
