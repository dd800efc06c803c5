"""Batches: clips as they reach the device, each process's own among them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from adafocus.data.clips import Clip, Clips
from adafocus.data.draws import Draws, Purpose
from adafocus.machine.distributed import gather_to_first, is_mine, local_shard, size
from adafocus.machine.shared_memory import end_if_not_sent, processes_that_fit
from adafocus.machine.signals import leave_to_parent

if TYPE_CHECKING:
    from adafocus.model.adafocus import AdaFocus


IMAGES: Sequence[Literal["frames", "glance"]] = ("frames", "glance")
"""What of a clip is frames."""


class Batch(NamedTuple):
    """B clips on the device that computes."""

    frames: Tensor
    """uint8 (B, T, 3, S, S)."""
    glance: Tensor
    """What the glancer sees, likewise; the same tensor where it sees the same frames."""
    target: Tensor
    """float32 (B, K): a distribution over classes, uniform over a video's labels."""
    labels: Tensor
    """bool (B, K)."""
    rows: Tensor
    """int64 (B,), of the split table."""
    positions: Tensor | None
    """float32 (B, T, 2): where the truth is, if known."""
    draws: Draws
    """What is drawn at random for these videos."""

    @classmethod
    def of(cls, clips: dict[str, Tensor], device: torch.device, draws: Draws) -> Batch:
        """Collated clips; frames stay bytes until a backbone sees them."""
        on_device = {key: value.to(device, non_blocking=True) for key, value in clips.items()}
        frames = on_device["frames"]
        glance = on_device.get("glance", frames)
        labels = on_device["labels"]
        target = labels / labels.sum(-1, keepdim=True)
        positions = on_device.get("positions")
        return cls(frames, glance, target, labels, on_device["index"], positions, draws)

    def in_order(self, order: Sequence[int]) -> Batch:
        """The same with its frames in another order, of which the glancer sees all."""
        frames = self.frames[:, order]
        positions = None if self.positions is None else self.positions[:, order]
        return self._replace(frames=frames, glance=frames, positions=positions)

    def part(self, rows: slice) -> Batch:
        """Some of the videos."""
        return Batch(
            self.frames[rows],
            self.glance[rows],
            self.target[rows],
            self.labels[rows],
            self.rows[rows],
            None if self.positions is None else self.positions[rows],
            self.draws.part(rows),
        )

    def random_boxes(self, model: AdaFocus, number: int = 0) -> Tensor:
        """`AdaFocus.random_boxes`, the ``number``-th draw of this batch."""
        draws = self.draws
        generator = draws.generator(Purpose.CORNERS, number)
        boxes = model.random_boxes(draws.videos, self.frames.shape[1], generator)
        return boxes[draws.rows].to(self.frames.device, non_blocking=True)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys ``(epoch, index)`` of all clips, shuffled by seed and epoch unless told otherwise.

    Set ``epoch`` before each pass, and ``skip`` to begin it after so many batches. `loader` sets
    ``batch_size``. Of several processes each gets its slice of every batch of a shuffled pass, from
    which all learn together; any other pass they share by whole batches, in turns, so that each
    clip is seen once and in the same company whatever their number.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.epoch = self.skip = 0
        self.batch_size = length

    @property
    def batches(self) -> list[int]:
        """Sizes of the whole batches of a pass. A shuffled one has no last batch that is not full,
        unless it is the only one."""
        full, rest = divmod(self.length, self.batch_size)
        drop = not rest or (self.shuffle and full)
        return [self.batch_size] * full + [rest] * (not drop)

    def __len__(self) -> int:
        return sum(map(len, self._own(np.arange(self.length), skip=0)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for clips in self._own(order, self.skip):
            yield from ((self.epoch, index) for index in clips)

    def _own(self, order: np.ndarray, skip: int) -> Iterator[list[int]]:
        """This process's part of each batch, or of each batch of its own."""
        for number, length in enumerate(self.batches[skip:], start=skip):
            batch = order[number * self.batch_size :][:length]
            if self.shuffle:
                yield batch[local_shard(length)].tolist()
            elif is_mine(number):
                yield batch.tolist()


def collate(clips: list[Clip]) -> dict[str, Tensor]:
    """Clips as one batch whose frames lie channels last in memory, as those of the clips do: to
    reorder them takes longer than to copy them."""
    images = [key for key in IMAGES if key in clips[0]]
    last = [clip | {key: clip[key].permute(0, 2, 3, 1) for key in images} for clip in clips]
    batch: dict[str, Tensor] = default_collate(last)
    return batch | {key: batch[key].permute(0, 1, 4, 2, 3) for key in images}


def _begin_worker(_: int) -> None:
    leave_to_parent()
    end_if_not_sent()


class Loader(DataLoader[Clip]):
    """Collated clips of a split, from `loader`."""

    dataset: Clips
    sampler: EpochSampler


def loader(
    clips: Clips,
    batch_size: int,
    sampler: EpochSampler,
    workers: int,
    device: torch.device,
) -> Loader:
    """Batches of clips, or this process's part of them, see `EpochSampler`.

    Of the ``workers``, processes that load them, there are as many as shared memory has room for.
    Raises `ValueError` where the processes cannot share a batch in equal parts.
    """
    sampler.batch_size = batch_size
    smallest = min(batch_size, len(clips))
    if sampler.shuffle and smallest % size():
        raise ValueError(
            f"{size()} processes cannot share a batch of {smallest} videos in equal parts: let"
            " batch_size in the recipe be a multiple of their number"
        )
    own = batch_size // size() if sampler.shuffle else batch_size
    model = clips.recipe.model
    frames = own * (model.frames + (model.frames_apart or 0))
    workers = processes_that_fit(workers, frames * 3 * model.frame_size**2)
    return Loader(
        clips,
        own,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        # Children of this process, as on Linux before Python 3.14. Others would run the script of a
        # workflow's job once more, and their parent would not be this process.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


def own_batches(
    batches: Loader,
    device: torch.device,
    seed: int,
    *,
    loaded: Iterable[Any] | None = None,
    between: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Batch]]:
    """This process's batches of a pass in order, with their numbers.

    Args:
        batches: from `loader`, not shuffled.
        device: the one that computes.
        seed: fixes what is drawn for each batch, the same in every pass.
        loaded: the same batches as they are watched by others, such as a bar.
        between: is called by all processes alike before each round of batches.
    """
    items = iter(batches if loaded is None else loaded)
    for number, videos in enumerate(batches.sampler.batches):
        if number % size() == 0:
            between()
        if is_mine(number):
            draws = Draws(seed, 0, number, videos, slice(0, videos))
            yield number, Batch.of(next(items), device, draws)
    next(items, None)  # the end, to which a bar is drawn


def in_order(found: list[tuple[int, Any]]) -> list[Any] | None:
    """What the processes found of their batches, in the order of the numbers that it is told with,
    for the first of them; None for the others."""
    gathered = gather_to_first(found)
    if gathered is None:
        return None
    return [of_batch for _, of_batch in sorted(gathered, key=itemgetter(0))]
