"""Data at full size: planning, splits, extraction, loading and prediction, each beside a plain way.

    python benchmarks/data.py
    python benchmarks/data.py plan      that alone, beside the other figures that are there

Listings are synthetic, of the five data sets' real numbers of videos; the videos that are extracted
and loaded are encoded by ffmpeg. Things that are compared run by turns. Prints a table and writes
benchmarks/results/data.json. Takes about twenty minutes.
"""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
import yaml
from machine import machine, take_turns
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from adafocus.data.batches import EpochSampler, loader
from adafocus.data.clips import Clips, centred_indices, draw_crop, sample_train
from adafocus.data.decoder import decode_some
from adafocus.data.ffmpeg import ffmpeg_path
from adafocus.data.frames import extract, extract_alone
from adafocus.data.listing import write_listing
from adafocus.data.splits import write_splits
from adafocus.data.store import read_frames
from adafocus.machine.device import keep_freed_memory
from adafocus.model.backbones import IMAGENET_MEAN, IMAGENET_STD
from adafocus.recipe import Recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
DATA_SETS = ("actnet", "fcvid", "minik", "sthv1", "sthv2")
REPEATS = 5


def by_turns(ways: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of each way by its name, see `take_turns`."""
    return dict(zip(ways, take_turns(list(ways.values()), repeats), strict=True))


# --- planning and splits ----------------------------------------------------------------------


def plan(folder: Path) -> dict[str, float]:
    """`snakemake -n` for all 15 results where all videos are there and half are extracted."""
    shutil.copytree(ROOT / "config", folder / "config")
    videos = 0
    for name in DATA_SETS:
        recipe = load_recipe(folder / "config" / "recipes" / f"{name}.yaml")
        count = recipe.videos.train + recipe.videos.val
        videos += count
        data = folder / "data" / name
        (data / "manifests").mkdir(parents=True)
        (data / "videos").mkdir()
        for video in range(count):
            (data / "videos" / f"{video:08d}.mp4").touch()
        write_listing(data, {})
        for shard in range(recipe.frames.shards // 2):
            shutil.copy(data / "videos.csv", data / "manifests" / f"{shard}.csv")
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--directory", str(folder)]
    command += ["--snakefile", str(ROOT / "Snakefile")]
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
    jobs = int(re.search(r"^total +(\d+)", done.stdout, re.MULTILINE)[1])
    started = time.perf_counter()
    subprocess.run([*command, "--config", "scan_videos=false"], capture_output=True, check=True)
    return {
        "videos": videos,
        "jobs": jobs,
        "seconds": statistics.median(seconds),
        "seconds_without_scan": time.perf_counter() - started,
    }


def splits(folder: Path) -> dict[str, float]:
    """The splits of the largest data set, Something-Something V2, in a process of its own."""
    recipe = load_recipe(ROOT / "config" / "recipes" / "sthv2.yaml")
    labels = [f"Class {number} of [something]" for number in range(recipe.classes)]
    annotations = folder / "annotations"
    annotations.mkdir(parents=True)
    classes = {label.replace("[", "").replace("]", ""): str(n) for n, label in enumerate(labels)}
    (annotations / "labels.json").write_text(json.dumps(classes))
    count = 0
    for file, split in (("train", "train"), ("validation", "val")):
        entries = [
            {"id": str(count + n), "template": labels[n % len(labels)]}
            for n in range(getattr(recipe.videos, split))
        ]
        count += len(entries)
        (annotations / f"{file}.json").write_text(json.dumps(entries))
    (folder / "manifests").mkdir()
    header = "video,path,status,frames,height,width,rate,duration,bytes,error\n"
    for shard in range(recipe.frames.shards):
        with (folder / "manifests" / f"{shard}.csv").open("w") as file:
            file.write(header)
            for video in range(shard, count, recipe.frames.shards):
                file.write(f"{video},frames/{video}.zip,ok,48,240,427,12.0,4.0,600000,\n")
    command = [sys.executable, __file__, "write_largest_splits", str(folder)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    return {"videos": count, "seconds": seconds, "gigabytes": float(done.stdout) / 1e6}


def write_largest_splits(folder: Path) -> None:
    """What `splits` measures; prints the most memory that it took, in kilobytes."""
    write_splits(load_recipe(ROOT / "config" / "recipes" / "sthv2.yaml"), folder)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


# --- extraction -------------------------------------------------------------------------------


def make_videos(folder: Path, count: int, size: str, seconds: float) -> None:
    """H.264 videos of a soft moving pattern.

    Its frames become JPEG files of about 20 kB at 640x360; ActivityNet's are of 13 kB.
    """
    folder.mkdir(parents=True)
    for number in range(count):
        pattern = f"testsrc2=size={size}:rate=30,hue=h={number * 37 % 360},gblur=sigma=1"
        command = [ffmpeg_path(), "-v", "error", "-f", "lavfi", "-i", pattern, "-t", str(seconds)]
        command += ["-pix_fmt", "yuv420p", "-crf", "23", folder / f"{number:03d}.mp4"]
        subprocess.run(command, check=True)


def plain_ffmpeg(videos: list[Path], folder: Path, height: int, threads: int) -> None:
    """One ffmpeg for each video, as many at a time as there are cores, to folders of JPEG files."""

    def one(video: Path) -> None:
        target = folder / video.stem
        target.mkdir(parents=True)
        command = [ffmpeg_path(), "-nostdin", "-v", "error", "-threads", "1", "-i", video]
        command += ["-vf", f"scale=-1:{height}", "-q:v", "2", "-threads", "1"]
        subprocess.run([*command, target / "%06d.jpg"], check=True)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, videos))


def extraction(folder: Path, count: int, size: str, seconds: float) -> dict[str, float]:
    """Frames per second of ours and of plain ffmpeg processes, on the same cores."""
    threads = len(os.sched_getaffinity(0))
    make_videos(folder / "videos", count, size, seconds)
    videos = sorted((folder / "videos").iterdir())
    with (folder / "videos.csv").open("w", newline="") as file:
        listing = csv.writer(file)
        listing.writerow(("video", "path", "error"))
        listing.writerows((video.stem, video.relative_to(folder), "") for video in videos)
    values = yaml.safe_load((ROOT / "config" / "recipes" / "actnet.yaml").read_text())
    values["frames"] = {"height": 240, "shards": 1}
    recipe = parse_recipe(values, "actnet.yaml")

    def ours() -> None:
        shutil.rmtree(folder / "frames", ignore_errors=True)
        extract(recipe, folder, shard=0, threads=threads)

    def plain() -> None:
        shutil.rmtree(folder / "plain", ignore_errors=True)
        plain_ffmpeg(videos, folder / "plain", 240, threads)

    medians = by_turns({"ours": ours, "plain": plain})
    frames = sum(1 for _ in (folder / "plain").rglob("*.jpg"))
    return {
        "videos": count,
        "frames": frames,
        "ours": frames / medians["ours"],
        "plain": frames / medians["plain"],
        "ratio": medians["plain"] / medians["ours"],
    }


# --- loading ----------------------------------------------------------------------------------


class PilClips(Dataset):
    """The usual loader, of TSN and of the code that the paper's authors published, plainly read:
    PIL, frame by frame, stacked along the channels, then floats. The same frames and crops as ours.
    """

    def __init__(self, folder: Path, frames: int) -> None:
        self.folder, self.frames, self.recipe = folder, frames, loading_recipe()

    def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
        epoch, number = key
        model, augmentation = self.recipe.model, self.recipe.augmentation
        rng = np.random.default_rng((0, epoch, number))
        indices = sample_train(self.frames, model.frames, "last", rng)
        files = [self.folder / "plain" / f"{number:03d}" / f"{n + 1:06d}.jpg" for n in indices]
        images = [Image.open(file).convert("RGB") for file in files]
        y, x, height, width = draw_crop(images[0].height, images[0].width, augmentation.scales, rng)
        images = [
            image.crop((x, y, x + width, y + height)).resize(
                (model.frame_size,) * 2, Image.Resampling.BILINEAR
            )
            for image in images
        ]
        if augmentation.flip and rng.random() < 0.5:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        stacked = torch.from_numpy(np.concatenate([np.asarray(image) for image in images], axis=2))
        frames = stacked.permute(2, 0, 1).contiguous().float().div(255)
        mean, std = IMAGENET_MEAN * model.frames, IMAGENET_STD * model.frames
        for channel, centre, spread in zip(frames, mean, std, strict=True):
            channel.sub_(centre).div_(spread)
        return {"frames": frames, "labels": torch.zeros(self.recipe.classes), "index": number}


class Keys(EpochSampler):
    """Every video in each of many epochs, as one pass."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for self.epoch in range(LOADED_EPOCHS):
            yield from super().__iter__()


LOADED_VIDEOS, LOADED_EPOCHS, LOADED_BATCH = 4, 16, 16
LOADED_FRAMES = 1800


def loading_recipe() -> Recipe:
    values = yaml.safe_load((ROOT / "config" / "recipes" / "actnet.yaml").read_text())
    values["frames"]["shards"] = 1
    return parse_recipe(values, "actnet.yaml")


def make_frames(folder: Path, frames: int) -> None:
    """A training split of some videos, as stores in ``frames`` and as JPEG files in ``plain``."""
    make_videos(folder / "videos", LOADED_VIDEOS, "640x360", frames / 30)
    with (folder / "videos.csv").open("w", newline="") as file:
        listing = csv.writer(file)
        listing.writerow(("video", "path", "error"))
        listing.writerows((f"{n:03d}", f"videos/{n:03d}.mp4", "") for n in range(LOADED_VIDEOS))
    extract(loading_recipe(), folder, shard=0, threads=2)
    (folder / "splits").mkdir()
    with (folder / "splits" / "train.csv").open("w") as file:
        file.write("video,path,frames,labels\n")
        for number in range(LOADED_VIDEOS):
            store = folder / "frames" / f"{number:03d}.zip"
            with ZipFile(store) as archive:
                archive.extractall(folder / "plain" / f"{number:03d}")
            file.write(f"{number:03d},frames/{number:03d}.zip,{frames},0\n")


def loading(folder: Path) -> dict[str, float]:
    """Clips per second that training gets from one loading process, from our stores and by PIL from
    folders, the same frames."""
    make_frames(folder, LOADED_FRAMES)
    keep_freed_memory()  # as training does, and its loading processes inherit
    cpu, keys = torch.device("cpu"), Keys(LOADED_VIDEOS, seed=0, shuffle=False)
    our_clips = Clips(folder, "train", loading_recipe(), augment=True, seed=0)
    ours = loader(our_clips, LOADED_BATCH, keys, workers=1, device=cpu)
    pil_clips = PilClips(folder, LOADED_FRAMES)
    pil = DataLoader(pil_clips, LOADED_BATCH, sampler=keys, num_workers=1, persistent_workers=True)
    clip = by_turns({"ours": lambda: deque(ours, 0), "pil": lambda: deque(pil, 0)})
    clips = LOADED_VIDEOS * LOADED_EPOCHS

    chosen = np.linspace(0, LOADED_FRAMES - 1, 16).astype(int).tolist()
    random_access = by_turns(
        {
            "store": lambda: read_frames(folder / "frames" / "000.zip", chosen),
            "folder": lambda: read_frames(folder / "plain" / "000", chosen),
        },
        repeats=20,
    )
    return {
        "frames_per_video": LOADED_FRAMES,
        "ours": clips / clip["ours"],
        "pil": clips / clip["pil"],
        "ratio": clip["pil"] / clip["ours"],
        "seconds_of_16_frames": random_access,
    }


# --- prediction -------------------------------------------------------------------------------

FILMS = {"hard": ("alls=30:allf=t", "22M", 250), "phone": ("alls=8:allf=t", "12M", 30)}
"""One minute of 720p each: noise, bits per second, and frames from one key to the next."""


def prediction(folder: Path) -> dict[str, Any]:
    """Seconds until a film's frames are there to be predicted from: by decoding what they need, by
    extracting the whole film first, and, beside them, of ffmpeg that decodes it and keeps nothing.
    """
    recipe, found = load_recipe(ROOT / "config" / "recipes" / "actnet.yaml"), {}
    choose = partial(centred_indices, model=recipe.model)
    for name, (noise, bits, keys) in FILMS.items():
        film = folder / f"{name}.mp4"
        pattern = f"testsrc2=size=1280x720:rate=30:duration=60,noise={noise}"
        command = [ffmpeg_path(), "-v", "error", "-f", "lavfi", "-i", pattern, "-pix_fmt"]
        command += ["yuv420p", "-preset", "veryfast", "-b:v", bits, "-g", str(keys), film]
        subprocess.run(command, check=True)

        def extracted(film: Path = film) -> None:
            with tempfile.TemporaryDirectory() as made:
                extract_alone(recipe.frames, film, Path(made))

        plain = [ffmpeg_path(), "-v", "error", "-i", film, "-f", "null", "-"]
        seconds = by_turns(
            {
                "needed": lambda film=film: decode_some(recipe.frames, film, choose),
                "extracted": extracted,
                "decoding": lambda plain=plain: subprocess.run(plain, check=True),
            }
        )
        found[name] = seconds | {
            "ratio": seconds["extracted"] / seconds["needed"],
            "share_of_decoding": seconds["needed"] / seconds["decoding"],
        }
    return found


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plan": plan,
    "splits": splits,
    "extraction_short": lambda folder: extraction(folder, 64, "320x240", 4),
    "extraction_long": lambda folder: extraction(folder, 6, "640x360", 30),
    "loading": loading,
    "prediction": prediction,
}


def main(names: list[str]) -> None:
    """Measures what is named, or all."""
    output = ROOT / "benchmarks" / "results" / "data.json"
    report = json.loads(output.read_text()) if names else {}
    for name in names or MEASURES:
        here = machine(torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            report[name] = MEASURES[name](Path(folder)) | {"machine": here}
        print(name, json.dumps(report[name]), flush=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {output.relative_to(ROOT)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write_largest_splits"]:
        write_largest_splits(Path(sys.argv[2]))
    else:
        main(sys.argv[1:])
