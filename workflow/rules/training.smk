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


rule train_glancer:
    input:
        splits=splits_of,
        init=checkpoints_before("glancer"),
        pretrained=pretrained_of,
    output:
        checkpoint="results/checkpoints/{experiment}_glancer_stage0.safetensors",
        curves=report(
            "results/plots/{experiment}_glancer_stage0_curves.svg",
            caption="../report/curves.rst",
            category="2 Training",
            subcategory=dataset_of,
            labels=figure_labels("glancer, stage 0"),
        ),
    log:
        "results/logs/{experiment}_glancer_stage0.log",
    benchmark:
        "results/benchmarks/{experiment}_glancer_stage0.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of(gpus_per_job)
    resources:
        mem_mb=more_memory(32000),
        runtime=2880,
        gpu=gpus_per_job,
    params:
        stage="glancer",
        seed=config["seed"],
        recipe=recipe_entries(
            "classes", "metric", "augmentation", "model", "stages.glancer", of_config=["precision"]
        ),
    message:
        "{wildcards.experiment}: pretraining the glancer on whole frames (stage 0)"
    script:
        "../scripts/train.py"


use rule train_glancer as train_focuser with:
    input:
        splits=splits_of,
        init=checkpoints_before("focuser"),
        pretrained=pretrained_of,
    output:
        checkpoint="results/checkpoints/{experiment}_focuser_stage0.safetensors",
        curves=report(
            "results/plots/{experiment}_focuser_stage0_curves.svg",
            caption="../report/curves.rst",
            category="2 Training",
            subcategory=dataset_of,
            labels=figure_labels("focuser, stage 0"),
        ),
    log:
        "results/logs/{experiment}_focuser_stage0.log",
    benchmark:
        "results/benchmarks/{experiment}_focuser_stage0.tsv"
    params:
        stage="focuser",
        seed=config["seed"],
        recipe=recipe_entries(
            "classes", "metric", "augmentation", "model", "stages.focuser", of_config=["precision"]
        ),
    message:
        "{wildcards.experiment}: pretraining the focuser on whole frames (stage 0)"


use rule train_glancer as stage1 with:
    input:
        splits=splits_of,
        init=checkpoints_before("stage1"),
        sweeps=sweeps_up_to("stage1"),
    output:
        checkpoint="results/checkpoints/{experiment}_{patch_size}_stage1.safetensors",
        curves=report(
            "results/plots/{experiment}_{patch_size}_stage1_curves.svg",
            caption="../report/curves.rst",
            category="2 Training",
            subcategory=dataset_of,
            labels=figure_labels("stage 1"),
        ),
    log:
        "results/logs/{experiment}_{patch_size}_stage1.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}_stage1.tsv"
    params:
        stage="stage1",
        seed=config["seed"],
        recipe=recipe_entries(
            "classes", "metric", "augmentation", "model", "stages.stage1", of_config=["precision"]
        ),
    message:
        "{wildcards.experiment}: training focuser and classifier on random patches of"
        " {wildcards.patch_size} pixels (stage 1)"


use rule stage1 as stage2 with:
    input:
        splits=splits_of,
        init=checkpoints_before("stage2"),
        sweeps=sweeps_up_to("stage2"),
    output:
        checkpoint="results/checkpoints/{experiment}_{patch_size}{skip}_stage2.safetensors",
        curves=report(
            "results/plots/{experiment}_{patch_size}{skip}_stage2_curves.svg",
            caption="../report/rewards.rst",
            category="2 Training",
            subcategory=dataset_of,
            labels=figure_labels("stage 2"),
        ),
    log:
        "results/logs/{experiment}_{patch_size}{skip}_stage2.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}{skip}_stage2.tsv"
    params:
        stage="stage2",
        seed=config["seed"],
        recipe=recipe_entries(
            "classes", "metric", "augmentation", "model", "stages.stage2", of_config=["precision"]
        ),
    message:
        "{wildcards.experiment}: training the policy that picks patches of"
        " {wildcards.patch_size} pixels (stage 2)"


use rule stage1 as stage3 with:
    input:
        splits=splits_of,
        init=checkpoints_before("stage3"),
        sweeps=sweeps_up_to("stage3"),
    output:
        checkpoint="results/checkpoints/{experiment}_{patch_size}{skip}_stage3.safetensors",
        curves=report(
            "results/plots/{experiment}_{patch_size}{skip}_stage3_curves.svg",
            caption="../report/curves.rst",
            category="2 Training",
            subcategory=dataset_of,
            labels=figure_labels("stage 3"),
        ),
    log:
        "results/logs/{experiment}_{patch_size}{skip}_stage3.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}{skip}_stage3.tsv"
    params:
        stage="stage3",
        seed=config["seed"],
        recipe=recipe_entries(
            "classes", "metric", "augmentation", "model", "stages.stage3", of_config=["precision"]
        ),
    message:
        "{wildcards.experiment}: training the classifier on the policy's patches of"
        " {wildcards.patch_size} pixels (stage 3)"


rule sweep:
    input:
        splits=splits_of,
        init=lambda wildcards: checkpoints_before(f"stage{wildcards.stage}")(wildcards),
    output:
        result="results/sweeps/{experiment}_{patch_size}{skip}_stage{stage}.json",
        plot=report(
            "results/sweeps/{experiment}_{patch_size}{skip}_stage{stage}.svg",
            caption="../report/sweep.rst",
            category="2 Training",
            subcategory=dataset_of,
            labels=figure_labels("sweep of learning rates"),
        ),
    log:
        "results/logs/{experiment}_{patch_size}{skip}_stage{stage}_sweep.log",
    benchmark:
        "results/benchmarks/{experiment}_{patch_size}{skip}_stage{stage}_sweep.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of(gpus_per_sweep)
    resources:
        mem_mb=more_memory(32000),
        runtime=2880,
        gpu=gpus_per_sweep,
    params:
        seed=config["seed"],
        budget={key: config["sweep"][key] for key in ("trials", "range")},
        recipe=recipe_entries(
            "classes",
            "metric",
            "augmentation",
            "model",
            "stages.stage{stage}",
            of_config=["precision"],
        ),
    message:
        "{wildcards.experiment}: sweeping the learning rates of stage {wildcards.stage} with patches"
        " of {wildcards.patch_size} pixels"
    script:
        "../scripts/sweep.py"
