rule evaluate:
    input:
        splits=splits_of,
        checkpoint=checkpoint_of_model,
    output:
        result="results/{experiment}_{patch_size}{skip}{seed}{stage}.json",
        predictions="results/{experiment}_{patch_size}{skip}{seed}{stage}.predictions.npz",
        sheet=report(
            "results/plots/{experiment}_{patch_size}{skip}{seed}{stage}_sheet.png",
            caption="../report/sheet.rst",
            category="4 Where it looks",
            subcategory=dataset_of,
            labels=figure_labels("some clips"),
        ),
        right=report(
            "results/plots/{experiment}_{patch_size}{skip}{seed}{stage}_right.png",
            caption="../report/sheet.rst",
            category="4 Where it looks",
            subcategory=dataset_of,
            labels=figure_labels("right predictions"),
        ),
        wrong=report(
            "results/plots/{experiment}_{patch_size}{skip}{seed}{stage}_wrong.png",
            caption="../report/sheet.rst",
            category="4 Where it looks",
            subcategory=dataset_of,
            labels=figure_labels("wrong predictions"),
        ),
        steps=report(
            "results/plots/{experiment}_{patch_size}{skip}{seed}{stage}_steps.svg",
            caption="../report/steps.rst",
            category="3 Accuracy",
            subcategory=dataset_of,
            labels=figure_labels("accuracy after each step"),
        ),
        patches=report(
            "results/plots/{experiment}_{patch_size}{skip}{seed}{stage}_patches.svg",
            caption="../report/patches.rst",
            category="4 Where it looks",
            subcategory=dataset_of,
            labels=figure_labels("maps of patches"),
        ),
        confusion=report(
            "results/plots/{experiment}_{patch_size}{skip}{seed}{stage}_confusion.svg",
            caption="../report/confusion.rst",
            category="3 Accuracy",
            subcategory=dataset_of,
            labels=figure_labels("confusion matrix"),
        ),
    log:
        "results/logs/{experiment}_{patch_size}{skip}{seed}{stage}_evaluation.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}{skip}{seed}{stage}_evaluation.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of(gpus_per_job)
    resources:
        mem_mb=more_memory(16000),
        runtime=480,
        gpu=gpus_per_job,
    params:
        seed=seed_of,
    message:
        "{wildcards.experiment}: evaluating {input.checkpoint}"
    script:
        "../scripts/evaluate.py"


# One model with several seeds.
rule seeds:
    input:
        results_of_seeds,
    output:
        "results/{experiment}_{patch_size}{skip}{stage}.seeds.json",
    log:
        "results/logs/{experiment}_{patch_size}{skip}{stage}_seeds.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}{skip}{stage}_seeds.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
        gpu=0,
    message:
        "{wildcards.experiment}: putting seeds together in {output}"
    script:
        "../scripts/seeds.py"


# One model in all ways to spend less; leaves a calibration beside the checkpoint.
rule points:
    input:
        splits=splits_of,
        checkpoint=checkpoint_of_model,
    output:
        "results/curves/{experiment}/{patch_size}{skip}.csv",
    log:
        "results/logs/{experiment}_{patch_size}{skip}_points.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}{skip}_points.tsv"
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=more_memory(16000),
        runtime=480,
        gpu=1 if gpus_per_job else 0,
    params:
        seed=seed_of,
    message:
        "{wildcards.experiment}: measuring ways to spend less with patches of"
        " {wildcards.patch_size} pixels"
    script:
        "../scripts/points.py"


rule curve:
    input:
        points_of,
    output:
        csv="results/curves/{experiment}.csv",
        figure=report(
            "results/curves/{experiment}.svg",
            caption="../report/curve.rst",
            category="1 Results",
            subcategory=dataset_of,
            labels=figure_labels("ways to spend less"),
        ),
    log:
        "results/logs/{experiment}_curve.log",
    benchmark:
        "results/benchmarks/{experiment}_curve.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
        gpu=0,
    params:
        recipe=recipe_entries("title", "metric", "published", "peers"),
        beside=points_beside,
    message:
        "{wildcards.experiment}: drawing accuracy against GFLOPs"
    script:
        "../scripts/curve.py"


rule summary:
    input:
        lambda wildcards: results_asked_for(),
    output:
        multiext("results/summary", ".csv", ".md"),
        report(
            "results/summary.html",
            caption="../report/results.rst",
            category="1 Results",
            labels={"figure": "tables, and what was run"},
        ),
        report(
            "results/summary.svg",
            caption="../report/gflops.rst",
            category="1 Results",
            labels={"figure": "accuracy against GFLOPs"},
        ),
        "results/runtimes.csv",
        report(
            "results/runtimes.svg",
            caption="../report/runtimes.rst",
            category="1 Results",
            labels={"figure": "run times and cost"},
        ),
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
        recipes=lambda wildcards: shown_of_recipes(),
    message:
        "gathering all results in results/summary.md"
    script:
        "../scripts/summary.py"
