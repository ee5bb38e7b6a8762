"""A side network: a copy of a UNet's way down and middle that sees a mask, and acts on the UNet through residuals.

ControlNet (Zhang et al. 2023): what the trunk has learned is kept, because each residual passes through a 1 x 1
convolution that begins at zero. It works with any trunk that has a way down and a middle, and adds residuals to their
outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medgen.errors import DataError
from medgen.nets.attention import Context
from medgen.nets.blocks import convolution, zeroed
from medgen.nets.options import SideConfig, UNetConfig
from medgen.nets.side.hint import DenseHint
from medgen.nets.unet_trunk import DownPath, Middle


class SideNetwork(nn.Module):
    """Residuals for the skips and the middle of a UNet, in the order of `UNet.forward`; all zero at first."""

    def __init__(self, config: UNetConfig, side: SideConfig) -> None:
        super().__init__()
        self.config = side
        self.hint = DenseHint(side.classes, side.hint_width, side.factor, config.widths[0])
        self.down = DownPath(config)
        self.middle = Middle(config)
        widths = [*self.down.skip_widths, config.widths[-1]]
        self.outputs = nn.ModuleList(zeroed(convolution(2, width, width, kernel=1)) for width in widths)

    def forward(self, x: Tensor, embedding: Tensor, tokens: Context | None, mask: Tensor) -> list[Tensor]:
        """Residuals for x (B, C, h, w) under a mask (B, classes, h factor, w factor).

        embedding (B, time_width) and tokens are the trunk's own.
        """
        self.check(mask.shape, x.shape)
        return self.residuals(x, embedding, tokens, self.features(mask))

    def check(self, mask: Sequence[int], x: Sequence[int]) -> None:
        """DataError unless a mask of shape `mask` fits an input of shape `x`."""
        side = self.config
        if tuple(mask) != (x[0], side.classes, *(side.factor * length for length in x[2:])):
            raise DataError(
                f"a mask of shape {tuple(mask)} does not fit: expected {side.classes} channels, and sides "
                f"{side.factor} times those of what the network sees, {' x '.join(map(str, x[2:]))}"
            )

    def features(self, mask: Tensor) -> Tensor:
        """The hint (B, widths[0], H / factor, W / factor) of a mask (B, classes, H, W), the same at every time."""
        hint: Tensor = self.hint(mask.to(self.hint.entry.weight.dtype))
        return hint

    def residuals(self, x: Tensor, embedding: Tensor, tokens: Context | None, hint: Tensor) -> list[Tensor]:
        """Residuals for x (B, C, h, w) under the features of a hint (B, widths[0], h, w)."""
        skips = self.down(x.to(self.down.input.weight.dtype), embedding, tokens, hint)
        seen = [*skips, self.middle(skips[-1], embedding, tokens)]
        return [output(h) for output, h in zip(self.outputs, seen, strict=True)]

    def begin_as(self, down: nn.Module, middle: nn.Module) -> None:
        """Copy the weights of the trunk's way down and middle, from which the side network starts."""
        self.down.load_state_dict(down.state_dict())
        self.middle.load_state_dict(middle.state_dict())
