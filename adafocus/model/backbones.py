"""The glancer's and the focuser's networks: torchvision's, whole or slimmed."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, ResNet
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

if TYPE_CHECKING:
    from adafocus.recipe import BackboneRecipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESNET_BLOCKS = {
    10: (BasicBlock, [1, 1, 1, 1]),
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


class Backbone(nn.Module):
    """A convolutional trunk and a linear head.

    Frames (B, T, 3, H, W), bytes or normalised floats, become maps (B, T, C, h, w), with h = H /
    output stride, rounded up. The trunk may compute in bfloat16; maps and head are float32.
    """

    precision = torch.float32
    """In which the trunk computes."""

    def __init__(self, trunk: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.trunk = trunk
        self.dropout = nn.Dropout(0.0)
        self.head = head
        self.others = nn.ModuleDict()
        """Other heads, by name, of a model whose backbones have several."""
        self.channels = head.in_features

    def forward(self, frames: Tensor) -> Tensor:
        flat = self.normalize(frames.flatten(0, 1))
        # Around the trunk alone: autocast keeps low copies of weights until its block ends, and so
        # would not see an optimizer's step within it.
        low = self.precision != torch.float32
        with torch.autocast(flat.device.type, self.precision) if low else nullcontext():
            maps: Tensor = self.trunk(flat)
        maps = maps.to(flat.dtype).unflatten(0, frames.shape[:2])
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """Pooled features (..., C) -> logits (..., K)."""
        logits: Tensor = self.head(self.dropout(features))
        return logits


class Normalize(nn.Module):
    """uint8 frames (..., 3, H, W) as float32 with ImageNet's mean and std; floats as they are.

    Bytes are taken as far as this so that only what a backbone sees is ever turned into floats:
    shrunk frames and patches, not whole frames. Raises `TypeError` where they are neither.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            constant = torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        if frames.dtype != torch.uint8:
            if not frames.is_floating_point():
                raise TypeError(
                    f"frames are {frames.dtype}: give uint8, or floats that are normalised with"
                    " ImageNet's mean and standard deviation"
                )
            return frames
        return (frames / 255).sub_(self.mean).div_(self.std)


def pool(maps: Tensor) -> Tensor:
    """The spatial mean of feature maps: (B, T, C, h, w) -> (B, T, C)."""
    return maps.mean((-2, -1))


# --- temporal shift ---------------------------------------------------------------------------


def temporal_shift(maps: Tensor, segments: int) -> Tensor:
    """Lets each frame see an eighth of the next frame's channels and an eighth of the last one's.

    The first eighth comes from the next frame, the second from the one before, zeros at the ends
    (TSM, Lin et al., ICCV 2019).

    Args:
        maps: (B·segments, C, h, w).
        segments: frames per video.
    """
    maps = maps.unflatten(0, (-1, segments))
    fold = maps.shape[2] // 8
    if torch.compiler.is_exporting():
        # What is written in place becomes some twenty operations of a graph.
        after, before, same = maps.split((fold, fold, maps.shape[2] - 2 * fold), 2)
        none = torch.zeros_like(after[:, :1])
        after, before = (after[:, 1:], none), (none, before[:, :-1])
        return torch.cat((torch.cat(after, 1), torch.cat(before, 1), same), 2).flatten(0, 1)
    shifted = maps.clone()
    shifted[:, :-1, :fold] = maps[:, 1:, :fold]
    shifted[:, -1, :fold] = 0
    shifted[:, 1:, fold : 2 * fold] = maps[:, :-1, fold : 2 * fold]
    shifted[:, 0, fold : 2 * fold] = 0
    return shifted.flatten(0, 1)


class ShiftedConv2d(nn.Conv2d):
    """A convolution, with the weights of ``conv``, whose input is first shifted in time."""

    def __init__(self, conv: nn.Conv2d, segments: int) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            _pair(conv.kernel_size),
            _pair(conv.stride),
            conv.padding if isinstance(conv.padding, str) else _pair(conv.padding),
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.segments = segments

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(temporal_shift(maps, self.segments))


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


def shift_in_time(trunk: nn.Sequential, segments: int) -> None:
    """Puts a temporal shift into every residual branch, before its first convolution."""
    for block in trunk.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            block.conv1 = ShiftedConv2d(block.conv1, segments)
        elif isinstance(block, InvertedResidual) and block.use_res_connect and len(block.conv) == 4:
            block.conv[0][0] = ShiftedConv2d(block.conv[0][0], segments)


# --- builders ---------------------------------------------------------------------------------


class SlimResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet with all its numbers of channels multiplied by ``width``."""

    def __init__(self, depth: int, width: float) -> None:
        self.width = width
        super().__init__(*RESNET_BLOCKS[depth])

    def _make_layer(
        self,
        block: type[BasicBlock | Bottleneck],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        if planes == 64:  # the first layer, which tells how wide the stem before it must be
            self.inplanes = round(64 * self.width)
            self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
        width = round(planes * self.width)
        layer: nn.Sequential = super()._make_layer(block, width, blocks, stride, dilate)
        return layer


def limit_stride(trunk: nn.Sequential, output_stride: int) -> None:
    """Turns the strides beyond ``output_stride`` into 1, so that the feature map stays finer."""
    reached = 1
    for part in trunk:
        windows = [m for m in part.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
        strided = [window for window in windows if window.stride in (2, (2, 2))]
        if strided and reached < output_stride:
            reached *= 2
        else:
            for window in strided:
                window.stride = (1, 1)


def backbone(recipe: BackboneRecipe, classes: int, segments: int | None = None) -> Backbone:
    """Builds a backbone with random weights.

    Args:
        recipe: name, depth, width, output stride.
        classes: K, the head's outputs.
        segments: frames per video where the backbone carries temporal shift.
    """
    if recipe.name == "mobilenet_v2":
        net = MobileNetV2(width_mult=recipe.width)
        trunk, channels = net.features, net.last_channel
    else:
        assert recipe.depth is not None  # as of every ResNet
        net = SlimResNet(recipe.depth, recipe.width)
        layers = OrderedDict(net.named_children())
        del layers["avgpool"], layers["fc"]
        trunk, channels = nn.Sequential(layers), net.inplanes
    limit_stride(trunk, recipe.output_stride)
    if segments is not None:
        shift_in_time(trunk, segments)
    return Backbone(trunk, nn.Linear(channels, classes))
