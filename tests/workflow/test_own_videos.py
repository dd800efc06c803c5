"""A folder of one's own videos, from the command that takes it in to a trained model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from miniature import make_video
from noise import uni_recipe


@pytest.mark.slow
def test_ones_own_videos_train(tiny_project):
    folder = tiny_project.folder
    for name in ("walking dog", "sleeping cat"):
        for number in range(5):
            make_video(folder / "my videos" / name / f"{number}.mp4", 6)
    recipes = folder / "config" / "recipes"
    recipes.mkdir(parents=True)
    (recipes.parent / "config.yaml").write_text(
        yaml.safe_dump({"datasets": {}, "device": "cpu", "threads": 1})
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("adafocus"), "new-dataset", "pets"]
        + ["--videos", "my videos"],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "8 videos to train on, 2 to validate on, 2 classes, 6 frames" in done.stdout
    target = "results/pets_128.json"
    assert f"Next: snakemake --cores all {target}" in done.stdout
    assert tiny_project.planned(target)["joint"] == 1

    # The networks and the epochs of a test; all else is as it was written.
    recipe, tiny = yaml.safe_load((recipes / "pets.yaml").read_text()), uni_recipe("long").to_dict()
    backbones = {name: tiny["model"][name] for name in ("glancer", "focuser")}
    recipe["model"] |= backbones | {"glance_size": 64, "classifier": {"hidden": 16}}
    recipe["stages"]["joint"]["epochs"] = 1
    (recipes / "pets.yaml").write_text(yaml.safe_dump(recipe))
    run = tiny_project.snakemake(target)
    assert run.returncode == 0, run.stdout + run.stderr
    said = run.stdout + run.stderr
    assert re.search(rf"^{target}: top1 [\d.]+ at [\d.e-]+ GFLOPs per video$", said, re.MULTILINE)
    assert "predict VIDEOS --checkpoint results/checkpoints/pets_128.safetensors" in said
    result = json.loads((folder / target).read_text())
    assert result["videos"] == 2
    assert (folder / "data/pets/splits/classes.txt").read_text() == "sleeping cat\nwalking dog\n"

    labels = recipes / "pets.csv"
    labels.write_text(labels.read_text().replace("walking dog", "running dog"))
    planned = tiny_project.planned(target)
    assert planned["splits"] == planned["joint"] == planned["evaluate"] == 1
    assert not {"download", "frames"} & planned.keys(), "no video changed"
