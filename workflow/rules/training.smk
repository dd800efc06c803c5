# One rule per stage; each starts from the checkpoints that the ones before it left.


# First of all: who is offline should not learn it when the frames are extracted.
rule pretrained:
    output:
        f"{config['data']}/{{experiment}}/pretrained.json",
    log:
        "results/logs/{experiment}_pretrained.log",
    benchmark:
        "results/benchmarks/{experiment}_pretrained.tsv"
    priority: 100
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        recipe=recipe_entries("model.glancer", "model.focuser"),
    message:
        "{wildcards.experiment}: getting the backbones' pretrained weights"
    script:
        "../scripts/pretrained.py"


for spec in SPECS.values():
    size = " of {wildcards.patch_size} pixels" if spec.of_patch_size else ""
    stage = "" if spec.number is None else f"stage {spec.number}, "

    rule:
        name:
            spec.rule
        input:
            splits=splits_of,
            init=checkpoints_before(spec),
            pretrained=pretrained_of if spec.begins else [],
            sweeps=sweeps_up_to(spec),
        output:
            checkpoint=f"results/checkpoints/{spec.pattern}.safetensors",
            curves=report(
                f"results/plots/{spec.pattern}_curves.svg",
                caption=f"../report/{'rewards' if 'policy' in spec.trains else 'curves'}.rst",
                category="2 Training",
                subcategory=dataset_of,
                labels=figure_labels(spec.title),
            ),
        log:
            f"results/logs/{spec.pattern}.log",
        benchmark:
            f"results/benchmarks/{spec.pattern}.tsv"
        conda:
            "../../environment.yml"
        threads: threads_of(gpus_per_job)
        resources:
            mem_mb=more_memory(32000),
            runtime=2880,
            gpu=gpus_per_job,
        params:
            stage=spec.name,
            seed=seed_of,
            recipe=recipe_entries(
                "classes",
                "metric",
                "augmentation",
                "model",
                f"stages.{spec.name}",
                of_config=["precision"],
            ),
        message:
            f"{{wildcards.experiment}}: {spec.work}{size} ({stage}seed {{params.seed}})"
        script:
            "../scripts/train.py"


rule sweep:
    input:
        splits=splits_of,
        init=checkpoints_before(),
    output:
        result="results/sweeps/{experiment}_{patch_size}{skip}{seed}{stage}.json",
        plot=report(
            "results/sweeps/{experiment}_{patch_size}{skip}{seed}{stage}.svg",
            caption="../report/sweep.rst",
            category="2 Training",
            subcategory=dataset_of,
            labels=figure_labels("sweep of learning rates"),
        ),
    log:
        "results/logs/{experiment}_{patch_size}{skip}{seed}{stage}_sweep.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}{skip}{seed}{stage}_sweep.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of(gpus_per_sweep)
    resources:
        mem_mb=more_memory(32000),
        runtime=2880,
        gpu=gpus_per_sweep,
    params:
        seed=seed_of,
        budget=sweep_budget,
        recipe=recipe_entries(
            "classes",
            "metric",
            "augmentation",
            "model",
            "stages.{stage}",
            of_config=["precision"],
        ),
    message:
        "{wildcards.experiment}: sweeping numbers for {output.result}"
    script:
        "../scripts/sweep.py"
