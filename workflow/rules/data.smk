# Where everything of one data set lies.
data = f"{config['data']}/{{dataset}}"


rule download:
    input:
        changed_videos,
    output:
        f"{data}/videos.csv",
    log:
        "results/logs/{dataset}_download.log",
    benchmark:
        "results/benchmarks/{dataset}_download.tsv"
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=more_memory(8000),
        runtime=2880,
        gpu=0,
    params:
        recipe=sources_of,
    message:
        "{wildcards.dataset}: getting the videos and their annotations"
    script:
        "../scripts/download.py"


rule frames:
    input:
        rules.download.output,
    output:
        f"{data}/manifests/{{shard}}.csv",
    log:
        "results/logs/{dataset}_frames_{shard}.log",
    benchmark:
        "results/benchmarks/{dataset}_frames_{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=more_memory(8000),
        runtime=1440,
        gpu=0,
    params:
        recipe=recipe_entries("frames"),
    message:
        "{wildcards.dataset}: extracting frames, shard {wildcards.shard}"
    script:
        "../scripts/frames.py"


rule splits:
    input:
        manifests_of,
        changed_annotations,
    output:
        train=f"{data}/splits/train.csv",
        val=f"{data}/splits/val.csv",
        classes=f"{data}/splits/classes.txt",
        report=f"{data}/splits/report.json",
    log:
        "results/logs/{dataset}_splits.log",
    benchmark:
        "results/benchmarks/{dataset}_splits.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_memory(4000),
        runtime=60,
        gpu=0,
    params:
        recipe=recipe_entries("annotations", "classes", "videos"),
    message:
        "{wildcards.dataset}: joining the annotations with the frames that there are"
    script:
        "../scripts/splits.py"
