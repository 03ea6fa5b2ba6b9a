"""Convolutional stem: a pretrained, frozen network whose feature maps are added to the patches of the ViT.

    pixel_values [P, 3, H, W] -- maps of strides 8, 16, 32 --> [P, patches, 592]   for the patches
        -- the last map widened, its mean --> [P, 1280]              for the class token and the concept head
        -- classifier --> probabilities [P, 1000]                    for the last image embedding but one

P is the number of images. It is EfficientNet-Lite0 with its BatchNorm folded into the convolutions, so that it has no
running statistics: each layer is a convolution with bias, most with ReLU6. Its classifier knows ImageNet's classes.
`lab/` imports the weights. Source: Tan and Le 2019 (arXiv 1905.11946), google/automl `efficientnet/lite`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Normalisation of `pixel_values`; the stem was trained on (byte - 127) / 128."""


class Stage(NamedTuple):
    """Blocks of one width; the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEMS: dict[str, tuple[Stage, ...]] = {
    "efficientnet-lite0": (
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(2, 5, 2, 6, 40),
        Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112),
        Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    )
}
"""Values of `vision_config.stem`."""
FIRST_CHANNELS, POOLED_CHANNELS, CLASSES = 32, 1280, 1000
TAPS = (8, 16, 32)
"""Strides whose last map is read."""


class FoldedConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding and an optional ReLU6; its weights never get a gradient."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """[P, in, H, W] -> [P, out, ceil(H / stride), ceil(W / stride)]."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        if kernel > 1:
            rows, columns = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        assert self.bias is not None
        x = self._conv_forward(x, self.weight.detach(), self.bias.detach())
        return F.relu6(x) if self.act else x


class FrozenLinear(nn.Linear):
    """Linear layer whose weights never get a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, self.weight.detach(), self.bias.detach())


class InvertedResidual(nn.Module):
    """Widen, depthwise convolution, project; the input is added if it has the shape of the output."""

    def __init__(self, in_channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = in_channels * stage.expansion
        self.expand = FoldedConv(in_channels, wide) if stage.expansion > 1 else nn.Identity()
        self.depthwise = FoldedConv(wide, wide, stage.kernel, stride, groups=wide)
        self.project = FoldedConv(wide, stage.channels, act=False)
        self.adds_input = stride == 1 and in_channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """[P, in, H, W] -> [P, out, H / stride, W / stride]."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.adds_input else out


class ConvolutionalStem(nn.Module):
    """The network up to its pooled features, and its classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.first = FoldedConv(3, FIRST_CHANNELS, 3, 2)
        self.blocks = nn.ModuleList(InvertedResidual(*place) for place, _ in _places(name))
        self.strides = [stride for _, stride in _places(name)]
        self.last = FoldedConv(STEMS[name][-1].channels, POOLED_CHANNELS)
        self.classifier = FrozenLinear(POOLED_CHANNELS, CLASSES)
        self.requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> tuple[list[Tensor], Tensor]:
        """[P, 3, H, W] normalised for CLIP -> the last map of each stride in `TAPS`, and [P, 1280]."""
        x = self.first(_renormalize(pixel_values).contiguous(memory_format=torch.channels_last))
        maps = {}
        for block, stride in zip(self.blocks, self.strides, strict=True):
            maps[stride] = x = block(x)
        return [maps[stride] for stride in TAPS], self.last(x).mean(dim=(2, 3))

    def classify(self, pooled: Tensor) -> Tensor:
        """Pooled features [P, 1280] -> probabilities [P, 1000] of ImageNet's classes."""
        return self.classifier(pooled).float().softmax(-1).to(pooled)


def _places(name: str) -> Iterator[tuple[tuple[int, Stage, int], int]]:
    """Yield the arguments of each block, and the stride of its output to the image."""
    channels, total = FIRST_CHANNELS, 2
    for stage in STEMS[name]:
        for index in range(stage.blocks):
            stride = stage.stride if index == 0 else 1
            total *= stride
            yield (channels, stage, stride), total
            channels = stage.channels


def _renormalize(pixel_values: Tensor) -> Tensor:
    """Change CLIP's normalisation into (byte - 127) / 128."""
    mean, std = (pixel_values.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return pixel_values * (std * (255 / 128)) + (mean * 255 - 127) / 128


def widest_map(name: str, image_size: int) -> int:
    """Return the numbers of the largest map of one image, inside the blocks."""
    sizes, stride = [], 2
    for (channels, stage, _), after in _places(name):
        side = -(-image_size // stride)
        sizes.append(channels * stage.expansion * side * side)
        stride = after
    return max(sizes)


def map_channels(name: str, patch_size: int) -> int:
    """Return the channels of `maps_per_patch`."""
    last = {stride: place[1].channels for place, stride in _places(name)}
    return sum(last[stride] * _cells(stride, patch_size) ** 2 for stride in TAPS)


def maps_per_patch(maps: list[Tensor], patch_size: int, side: int) -> Tensor:
    """Concatenate the maps' cells under each patch: -> [P, side * side, channels], row by row.

    A map finer than the raster of patches gives several cells per patch; one that does not fit it is interpolated.
    """
    parts = []
    for stride, x in zip(TAPS, maps, strict=True):
        cells = _cells(stride, patch_size)
        size = (side * cells, side * cells)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        parts.append(F.pixel_unshuffle(x, cells))
    return torch.cat(parts, dim=1).flatten(2).transpose(1, 2)


def _cells(stride: int, patch_size: int) -> int:
    """Return how many cells of a map are read per side of a patch."""
    return max(1, round(patch_size / stride))
