"""The same networks, frozen: faster copies that learn no more."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from adafocus.model.backbones import Backbone, ShiftedConv2d, temporal_shift

CACHE = 16 * 2**20
"""Bytes of maps that stay in a CPU's cache."""
MOST_PIXELS = 64 * 224**2
"""Pixels of frames that a CPU takes through a frozen backbone at once, which bounds its memory; a
GPU, which needs more to be busy, takes four times as many."""
ONEDNN = torch.backends.mkldnn.is_available()
"""Whether a CPU has oneDNN, Intel's library of convolutions."""
Plan = list[tuple[nn.Sequential, int]]
"""Parts of a trunk in turn, and how many frames to take through each at a time."""


class FrozenBackbone(Backbone):
    """The same function as ``backbone`` in eval mode, computed faster, with a copy of its weights.

    Batch norms are folded into convolutions, the layout is channels-last, and the weights are kept
    in the type in which the trunk computes. On a CPU each part of the network takes as many frames
    at a time as leave its maps in the cache: few where maps are large, many where it is weights
    that must be read.
    """

    def __init__(self, backbone: Backbone) -> None:
        copy = deepcopy(backbone).requires_grad_(False).eval()
        fold_batch_norms(copy.trunk)
        trunk = fuse(copy.trunk).to(memory_format=torch.channels_last)
        self.low = backbone.precision != torch.float32
        super().__init__(trunk.to(backbone.precision) if self.low else trunk, copy.head)
        self.normalize, self.precision = copy.normalize, backbone.precision
        self.others = copy.others
        shifted = (module for module in copy.trunk.modules() if isinstance(module, ShiftedConv2d))
        # Temporal shift needs all frames of a video at once.
        self.together = next((module.segments for module in shifted), 1)
        self.plans: dict[torch.Size, Plan] = {}
        self.eval()

    def forward(self, frames: Tensor) -> Tensor:
        flat = frames.flatten(0, 1)
        pixels = MOST_PIXELS if flat.device.type == "cpu" else 4 * MOST_PIXELS
        most = pixels // frames.shape[-1] ** 2
        through = self._in_cache if flat.device.type == "cpu" else self._at_once
        maps = _joined([through(few) for few in flat.split(self._videos(most))])
        found: Tensor = (maps.float() if self.low else maps).unflatten(0, frames.shape[:2])
        return found

    def _at_once(self, frames: Tensor) -> Tensor:
        maps: Tensor = self.trunk(self._as_seen(frames))
        return maps

    def _as_seen(self, frames: Tensor) -> Tensor:
        """Bytes or normalised floats (N, 3, H, W), as the trunk takes them."""
        seen: Tensor = self.normalize(frames)
        return seen.to(self.precision) if self.low else seen

    def _in_cache(self, frames: Tensor) -> Tensor:
        if frames.shape[1:] not in self.plans:
            self.plans[frames.shape[1:]] = self._plan(self._as_seen(frames[: self.together]))
        return self._through(self.plans[frames.shape[1:]], frames)

    def _through(self, plan: Plan, frames: Tensor) -> Tensor:
        """All parts of a plan, each right after those before it, so that what they have left is
        still in the cache."""
        if not plan:
            return self._as_seen(frames)
        *before, (part, size) = plan
        most = max(size for _, size in plan)
        left = (self._through(before, few) for few in frames.split(most))
        return _joined([part(few) for maps in left for few in maps.split(size)])

    def _plan(self, maps: Tensor) -> Plan:
        plan: Plan = []
        sizes: list[int] = []
        hooks = [
            module.register_forward_hook(lambda *called: sizes.append(called[-1].numel()))
            for module in self.trunk.modules()
        ]
        for part in self.trunk:
            sizes[:] = [maps.numel()]
            maps = part(maps)
            fit = CACHE * len(maps) // (maps.element_size() * max(sizes))
            # In powers of two, so that parts alike go together. With one thread, torch has a slower
            # convolution for fewer than 16 frames.
            least = 16 if torch.get_num_threads() == 1 else 1
            size = self._videos(max(least, 1 << max(fit, 1).bit_length() - 1))
            if plan and plan[-1][1] == size:
                plan[-1][0].append(part)
            else:
                plan.append((nn.Sequential(part), size))
        for hook in hooks:
            hook.remove()
        return plan

    def _videos(self, frames: int) -> int:
        """So many frames, or fewer, as are whole videos."""
        return max(frames // self.together, 1) * self.together


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def fold_batch_norms(network: nn.Module) -> None:
    """Folds every batch norm into the convolution before it, which must be in eval mode."""
    for module in network.modules():
        for (before, conv), (after, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, before, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())


class FusedConv(nn.Module):
    """A convolution with its bias and what comes after it, without gradients.

    On a GPU, where maps of early layers are far larger than any cache, each pass over them counts:
    a bias of its own takes as long as the convolution. On a CPU all is one pass of oneDNN, which
    gives the same results to the bit and takes an eighth less time in MobileNetV2.

    Args:
        conv: the convolution, with a bias.
        activation: that follows it; None where nothing does.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.activation = conv, activation
        self.after = None if activation is None else "relu"
        self.bounds: list[float] = []
        if isinstance(activation, nn.ReLU6):
            self.after, self.bounds = "hardtanh", [0.0, 6.0]
        dense = conv.groups == 1
        self.is_product = dense and conv.kernel_size == (1, 1) and conv.stride == (1, 1)
        self.with_relu = dense and isinstance(activation, nn.ReLU)

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        """Maps (N, C, h, w) -> (N, C', h', w'), to which ``added`` comes before the activation."""
        conv = self.conv
        if ONEDNN and maps.device.type == "cpu" and maps.dtype == torch.float32:
            return self._by_onednn(maps, added)
        if maps.is_cuda and (self.with_relu or (self.is_product and added is None)):
            if isinstance(conv, ShiftedConv2d):
                maps = temporal_shift(maps, conv.segments)
            if self.with_relu:
                assert not isinstance(conv.padding, str)
                how = (conv.stride, conv.padding, conv.dilation, conv.groups)
                if added is None:
                    return torch.cudnn_convolution_relu(maps, conv.weight, conv.bias, *how)
                return torch.cudnn_convolution_add_relu(
                    maps, conv.weight, added, 1.0, conv.bias, *how
                )
            pixels = functional.linear(maps.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)
            made = pixels.permute(0, 3, 1, 2)
        else:
            made = conv(maps)
            if added is not None:
                made += added
        if self.activation is not None:
            made = self.activation(made)
        return made

    def _by_onednn(self, maps: Tensor, added: Tensor | None) -> Tensor:
        """The operators that `torch.compile` takes on a CPU."""
        conv = self.conv
        if isinstance(conv, ShiftedConv2d):
            maps = temporal_shift(maps, conv.segments)
        given = (conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups)
        if added is not None:
            made: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
                maps, added, *given, "add", 1.0, self.after, self.bounds, ""
            )
        else:
            made = torch.ops.mkldnn._convolution_pointwise(
                maps, *given, self.after or "none", self.bounds, ""
            )
        return made


class FusedBlock(nn.Module):
    """A residual block of a ResNet whose batch norms are folded."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        convs = [
            getattr(block, name) for name in ("conv1", "conv2", "conv3") if hasattr(block, name)
        ]
        self.convs = nn.ModuleList(FusedConv(conv, block.relu) for conv in convs)
        self.downsample = block.downsample and fuse(block.downsample)

    def forward(self, maps: Tensor) -> Tensor:
        same = maps if self.downsample is None else self.downsample(maps)
        *first, last = self.convs
        for conv in first:
            maps = conv(maps)
        added: Tensor = last(maps, same)
        return added


def fuse(network: nn.Sequential) -> nn.Sequential:
    """The same network, of batch norms folded, whose convolutions are `FusedConv`s."""
    rest = [
        (name, part) for name, part in network.named_children() if type(part) is not nn.Identity
    ]
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    while rest:
        name, part = rest.pop(0)
        if isinstance(part, nn.Conv2d):
            activated = rest and isinstance(rest[0][1], nn.ReLU | nn.ReLU6)
            part = FusedConv(part, rest.pop(0)[1] if activated else None)
        elif isinstance(part, BasicBlock | Bottleneck):
            part = FusedBlock(part)
        elif isinstance(part, InvertedResidual):
            part.conv = fuse(part.conv)
        elif isinstance(part, nn.Sequential):
            part = fuse(part)
        parts[name] = part
    return nn.Sequential(parts)
