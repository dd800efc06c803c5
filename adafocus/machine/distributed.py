"""Several processes that train or evaluate one model together, one for each GPU.

``torchrun`` starts them, on one machine or several. All of them do the same, each on its own slice
of every batch; what depends on a whole batch is put together here. Only the first process speaks
and writes.

In a program that runs alone, all of this does nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from adafocus.machine.device import pick_device
from adafocus.machine.locks import LOOK_EVERY, Lock

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""For processes that wait for the others, such as while the first reads or writes a large file."""
LATE = timedelta(minutes=10)
"""For a process whose memory is full, which the others meet before the end of a batch."""


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes that ``torchrun`` started, if it did, for the block.

    Where one of them fails, the others end quietly: it has said why.

    Args:
        device: ``auto``, ``cpu``, or ``cuda``, of which each process takes one of its own.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    backend = "gloo"
    if pick_device(device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # What processes agree on by way of the CPU does not wait for the GPU.
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
            raise
        sys.exit("Another process of this run has ended, and so does this one.")
    finally:
        dist.destroy_process_group()


@contextmanager
def alone(output: Path, job: str) -> Iterator[None]:
    """The first process holds the `Lock` of an output for the block, for which all wait.

    Raises `WriteError` where it cannot be written.
    """
    lock = Lock(output, job)
    try:
        while any(all_reduce_max(int(is_first() and not lock.attempt()))):
            time.sleep(LOOK_EVERY)
        yield
    finally:
        lock.release()


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    return rank() == 0


def say(line: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        tqdm.write(line)


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process does the block before the others begin it."""
    if size() > 1 and not is_first():
        dist.barrier()
    yield
    if size() > 1 and is_first():
        dist.barrier()


# --- batches ----------------------------------------------------------------------------------


def is_mine(number: int) -> bool:
    """Whether a batch that one process takes alone, by its number, is this one's."""
    return number % size() == rank()


def local_shard(rows: int) -> slice:
    """This process's slice of a whole batch's rows, of which each has as many."""
    length = rows // size()
    return slice(rank() * length, (rank() + 1) * length)


def all_gather(rows: Tensor) -> Tensor:
    """The rows of all processes' slices, one slice after the other."""
    if size() == 1:
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean over processes."""
    if size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / size()


def all_reduce_max(*values: int) -> list[int]:
    """The greatest that any process gives of each."""
    if size() == 1:
        return list(values)
    greatest = torch.tensor(values)
    dist.all_reduce(greatest, dist.ReduceOp.MAX)
    return greatest.tolist()


def all_gather_lists(own: list[Any]) -> list[Any]:
    """The items of all processes, one process after the other."""
    if size() == 1:
        return own
    parts: list[list[Any]] = [[] for _ in range(size())]
    dist.all_gather_object(parts, own)
    return [item for part in parts for item in part]


def gather_to_first(own: list[Any]) -> list[Any] | None:
    """The items of all processes, one process after the other, for the first of them; None for the
    others, so that it alone needs the memory."""
    if size() == 1:
        return own
    parts: list[list[Any]] | None = [[] for _ in range(size())] if is_first() else None
    dist.gather_object(own, parts)
    return None if parts is None else [item for part in parts for item in part]


def broadcast(value: Any) -> Any:
    """What the first process gives, for all."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


# --- a full memory ----------------------------------------------------------------------------


class FullElsewhere(torch.OutOfMemoryError):
    """The memory of another process's GPU is full."""


def meet() -> None:
    """Waits for all processes; raises `FullElsewhere` where one comes by `tell_full`."""
    if any(all_reduce_max(0)):
        raise FullElsewhere("CUDA out of memory in another process. It has said more")


def tell_full() -> bool:
    """Lets the others' next `meet` raise `FullElsewhere`; returns whether they came there."""
    if size() == 1:
        return True
    work = dist.all_reduce(torch.tensor([1]), dist.ReduceOp.MAX, async_op=True)
    try:
        return work.wait(LATE)
    except RuntimeError:
        return False


@contextmanager
def meeting_at(norms: list[nn.Module]) -> Iterator[None]:
    """Lets processes `meet` before each of these batch norms puts statistics or their gradients
    together, where they would wait without end for one whose memory is full."""

    def before(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        meet()

    def after(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: meet())

    hooks = [norm.register_forward_pre_hook(before) for norm in norms]
    hooks += [norm.register_forward_hook(after) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# --- modules ----------------------------------------------------------------------------------


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Gives each process the mean of all processes' gradients.

    All at once when the backward passes are done, not during them as DistributedDataParallel does:
    a process whose memory is full there keeps none waiting.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if size() == 1 or not gradients:
        return
    means = all_reduce_mean(torch.cat([gradient.flatten() for gradient in gradients]))
    lengths = [gradient.numel() for gradient in gradients]
    for gradient, values in zip(gradients, means.split(lengths), strict=True):
        gradient.copy_(values.view_as(gradient))


def share_statistics(module: nn.Module) -> list[nn.Module]:
    """Lets batch norms in train mode see the whole batch; returns them."""
    norms: list[nn.Module] = []
    if size() == 1:
        return norms
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                on_gpu = next(child.parameters()).is_cuda
                shared = nn.SyncBatchNorm if on_gpu else CpuSyncBatchNorm
                norms.append(_like(child, shared))
                setattr(parent, name, norms[-1])
    return norms


def _like(norm: _BatchNorm, kind: type[_BatchNorm]) -> _BatchNorm:
    """A batch norm of another kind with the very weights of ``norm``."""
    other = kind(norm.num_features, norm.eps, norm.momentum)
    other.load_state_dict(norm.state_dict())
    other.weight, other.bias = norm.weight, norm.bias
    other.running_mean, other.running_var = norm.running_mean, norm.running_var
    other.num_batches_tracked = norm.num_batches_tracked
    return other.train(norm.training)


class CpuSyncBatchNorm(_BatchNorm):
    """What `nn.SyncBatchNorm` does, on a CPU, where that one does not work."""

    def _check_input_dim(self, input: Tensor) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        kind, input = input.dtype, input.to(self.running_mean.dtype)
        dims = [dim for dim in range(input.ndim) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(input.ndim)]
        average: Tensor = _Mean.apply(input.mean(dims))
        centred = input - average.view(shape)
        variance: Tensor = _Mean.apply(centred.square().mean(dims))
        with torch.no_grad():
            count = input.numel() // input.shape[1] * size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        return (scaled * self.weight.view(shape) + self.bias.view(shape)).to(kind)


class _Mean(torch.autograd.Function):
    """`all_reduce_mean` with a gradient: what each process's losses owe to others' values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_mean(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_mean(gradient)
