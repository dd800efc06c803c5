"""Miniatures of the demo, and small videos."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from adafocus.data.ffmpeg import ffmpeg_path
from adafocus.recipe import Recipe, parse_recipe

DEMO = Path(__file__).parents[2] / "config" / "recipes" / "demo.yaml"
TINY = {
    "patch_sizes": [16],
    "skip_costs": [],
    "source": {
        "train": 12,
        "val": 10,
        "frames": 6,
        "visible": 4,
        "size": 48,
        "digit": 16,
        "fragments": 2,
    },
    "frames": {"height": 48, "quality": 2, "shards": 2},
    "model": {"frames": 4, "frame_size": 48, "glance_size": 12},
}


def make_recipe(**changes: Any) -> Recipe:
    """The demo's recipe at a tiny size, with sections changed key by key.

    A source of another kind and annotations of another format replace the demo's.
    """
    values = yaml.safe_load(DEMO.read_text())
    for change in (TINY, changes):
        for key, value in change.items():
            merge = isinstance(value, dict) and not {"kind", "format"} & value.keys()
            values[key] = values[key] | value if merge else value
    return parse_recipe(values, "miniature")


def make_video(
    path: Path, frames: int = 10, size: str = "64x48", *options: str, rate: int = 25
) -> Path:
    """Encodes ffmpeg's test pattern; ``options`` may begin with other inputs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = ["-f", "lavfi", "-i", f"testsrc=size={size}:rate={rate}"]
    output = ["-frames:v", str(frames), f"file:{path}"]
    command = [ffmpeg_path(), "-nostdin", "-v", "error", *pattern, *options, *output]
    subprocess.run(command, check=True)
    return path
