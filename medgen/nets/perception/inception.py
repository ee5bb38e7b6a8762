"""The Inception v3 behind FID, KID and IS (Szegedy et al. 2016; the frozen graph of Heusel et al. 2017).

It differs from the ImageNet network of the same name: averages leave out the padding, the last block takes a maximum
where the others average, and there are 1008 classes. The weights have the names that the PyTorch ports share.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import DataError
from medgen.nets.compute import exact_float32

SIDE = 299
FEATURES = 2048
CLASSES = 1008


class ConvUnit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, width: int, out: int, kernel: int | tuple[int, int], *, stride: int = 1, padded: bool = False
    ) -> None:
        super().__init__()
        height, length = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, length // 2) if padded else 0
        self.conv = nn.Conv2d(width, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, out, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    """Mean of the 3 x 3 neighbours that lie inside the image."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, twice 3x3, and an average."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(width, 64, 1)
        self.branch5x5_1 = ConvUnit(width, 48, 1)
        self.branch5x5_2 = ConvUnit(48, 64, 5, padded=True)
        self.branch3x3dbl_1 = ConvUnit(width, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padded=True)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, padded=True)
        self.branch_pool = ConvUnit(width, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, 35, 35) to (B, 224 + pooled, 35, 35)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], dim=1)


class BlockB(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3 = ConvUnit(width, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvUnit(width, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padded=True)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, 35, 35) to (B, 480 + width, 17, 17)."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """17 x 17: 1x1, once and twice 7x7 as rows and columns, and an average."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = ConvUnit(width, 192, 1)
        self.branch7x7_1 = ConvUnit(width, inner, 1)
        self.branch7x7_2 = ConvUnit(inner, inner, row, padded=True)
        self.branch7x7_3 = ConvUnit(inner, 192, column, padded=True)
        self.branch7x7dbl_1 = ConvUnit(width, inner, 1)
        self.branch7x7dbl_2 = ConvUnit(inner, inner, column, padded=True)
        self.branch7x7dbl_3 = ConvUnit(inner, inner, row, padded=True)
        self.branch7x7dbl_4 = ConvUnit(inner, inner, column, padded=True)
        self.branch7x7dbl_5 = ConvUnit(inner, 192, row, padded=True)
        self.branch_pool = ConvUnit(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, 17, 17) to (B, 768, 17, 17)."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], dim=1)


class BlockD(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvUnit(width, 192, 1)
        self.branch3x3_2 = ConvUnit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvUnit(width, 192, 1)
        self.branch7x7x3_2 = ConvUnit(192, 192, (1, 7), padded=True)
        self.branch7x7x3_3 = ConvUnit(192, 192, (7, 1), padded=True)
        self.branch7x7x3_4 = ConvUnit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, 17, 17) to (B, 512 + width, 8, 8)."""
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    """8 x 8: 1x1, once and twice 3x3 that end in a row and a column side by side, and an average or a maximum."""

    def __init__(self, width: int, *, maximum: bool) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self.maximum = maximum
        self.branch1x1 = ConvUnit(width, 320, 1)
        self.branch3x3_1 = ConvUnit(width, 384, 1)
        self.branch3x3_2a = ConvUnit(384, 384, row, padded=True)
        self.branch3x3_2b = ConvUnit(384, 384, column, padded=True)
        self.branch3x3dbl_1 = ConvUnit(width, 448, 1)
        self.branch3x3dbl_2 = ConvUnit(448, 384, 3, padded=True)
        self.branch3x3dbl_3a = ConvUnit(384, 384, row, padded=True)
        self.branch3x3dbl_3b = ConvUnit(384, 384, column, padded=True)
        self.branch_pool = ConvUnit(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, 8, 8) to (B, 2048, 8, 8)."""
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        branches = [self.branch1x1(x), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        branches += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(pooled)]
        return torch.cat(branches, dim=1)


class InceptionV3(nn.Module):
    """Maps 8-bit images to pooled features, and these to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, padded=True)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, maximum=False)
        self.Mixed_7c = BlockE(2048, maximum=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    @exact_float32()
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), red first, any real type with the values 0 to 255 -> pooled features (B, 2048)."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"Inception takes colour images (B, 3, H, W), not {tuple(images.shape)}")
        x = (resize(images.float(), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)  # (B, 192, 35, 35)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features: Tensor = x.mean(dim=(2, 3))
        return features

    @exact_float32()
    def logits(self, features: Tensor) -> Tensor:
        """Pooled features (B, 2048) -> (B, 1008), without the bias, as in the code that defined the Inception Score."""
        logits: Tensor = features @ self.fc.weight.T
        return logits

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights by their common names; DataError if they are not those of this network."""
        wanted = {name: value for name, value in self.state_dict().items() if not name.endswith("num_batches_tracked")}
        missing = [name for name in wanted if name not in weights]
        if missing:
            raise DataError(f"not weights of Inception v3: {len(missing)} of them are missing, such as {missing[0]}")
        if len(weights["fc.weight"]) != CLASSES:
            raise DataError(
                f"weights of an Inception v3 with {len(weights['fc.weight'])} classes; the network of FID has {CLASSES}"
            )
        for name, value in wanted.items():
            if weights[name].shape != value.shape:
                raise DataError(f"not weights of Inception v3: {name} is {tuple(weights[name].shape)}")
            value.copy_(weights[name])


def resize(x: Tensor, side: int) -> Tensor:
    """Bilinear (B, C, H, W) -> (B, C, side, side) on the grid of TensorFlow 1: pixel i lies at i * H / side.

    There are neither half-pixel centres nor a low-pass filter: published FIDs were computed in this way.
    """
    for axis in (-2, -1):
        length = x.shape[axis]
        if length == side:
            continue
        place = torch.arange(side, dtype=torch.float32, device=x.device) * (length / side)
        low = place.floor().long()
        high = (low + 1).clamp(max=length - 1)
        share = (place - low).view(-1, *[1] * (-1 - axis))
        below = x.index_select(axis, low)
        x = below + (x.index_select(axis, high) - below) * share
    return x
