"""What makes inference fast on this processor and changes its results little."""

import ctypes
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Where the processor multiplies bfloat16 in hardware it is twice as fast; the mean cosine to float32 stays over 0.999.
FAST_TYPE = torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32
_PLAIN_CONVOLUTIONS = ("Conv2d", "Conv2dSame")  # others of timm's change their weights at each call
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of malloc.h
_MOST = 2**31 - 1


def keep_memory() -> None:
    """Keep freed memory for the next batch: else the system takes large arrays back, and clears new ones each time."""
    if sys.platform == "linux":
        for option, value in ((_M_TRIM_THRESHOLD, _MOST), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1)):
            ctypes.CDLL(None).mallopt(option, value)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Multiply each batch norm into the convolution before it, in place; only an activation of timm's stays of it."""
    for parent, (name, convolution), (follower, norm) in _after_convolutions(network):
        if isinstance(norm, nn.BatchNorm2d):
            setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
            setattr(parent, follower, getattr(norm, "act", nn.Identity()))
    return network


def fold_relu6(network: nn.Module) -> nn.Module:
    """Let each convolution do the ReLU6 after it while its results are at hand, in place."""
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        for parent, (name, convolution), (follower, activation) in _after_convolutions(network):
            plain = convolution.dilation == (1, 1) and convolution.padding_mode == "zeros"
            if isinstance(activation, nn.ReLU6) and plain and not isinstance(convolution.padding, str):
                setattr(parent, name, ConvolutionReLU6(convolution))
                setattr(parent, follower, nn.Identity())
    return network


class ConvolutionReLU6(nn.Module):
    """A convolution, a ReLU6, and the padding of TensorFlow where the convolution is timm's ``Conv2dSame``.

    Args:
        convolution: whose weights are taken, in memory as they will be used.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._stride, self._dilation = convolution.stride, convolution.dilation
        self._groups, self._padding = convolution.groups, convolution.padding
        self._same = type(convolution).__name__ == "Conv2dSame"

    def forward(self, pixels: Tensor) -> Tensor:
        """As the convolution and the ReLU6, one after the other."""
        weight, padding = self._for_same(pixels) if self._same else (self.weight, self._padding)
        return torch.ops.mkldnn._convolution_pointwise(
            pixels, weight, self.bias, padding, self._stride, self._dilation, self._groups, "hardtanh", [0.0, 6.0], ""
        )

    def _for_same(self, pixels: Tensor) -> tuple[Tensor, list[int]]:
        """Zeros before the kernel, so that as many around the picture do where one more is needed at its end."""
        before, after = [], []
        for side, kernel, stride in zip(pixels.shape[2:], self.weight.shape[2:], self._stride, strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            before.append(total // 2)
            after.append(total - total // 2)
        (top, left), (bottom, right) = before, after
        weight = pad(self.weight, (right - left, 0, bottom - top, 0))
        return weight.contiguous(memory_format=torch.channels_last), after


def _after_convolutions(
    network: nn.Module,
) -> Iterator[tuple[nn.Module, tuple[str, nn.Conv2d], tuple[str, nn.Module]]]:
    """Each plain convolution and what comes after it, by their names, in the module that has both."""
    for parent in network.modules():
        for (name, child), after in pairwise(list(parent.named_children())):
            if isinstance(child, nn.Conv2d) and type(child).__name__ in _PLAIN_CONVOLUTIONS:
                yield parent, (name, child), after


def prepare(network: nn.Module) -> nn.Module:
    """Make a trained network for pictures ready for fast inference on float32 pixels, in place."""
    fold_batch_norm(network.eval()).to(FAST_TYPE).to(memory_format=torch.channels_last)
    first = network
    for part in network.modules():
        if hasattr(part, "conv_stem") and isinstance(part.blocks, nn.Sequential):  # timm's EfficientNets
            for early in (part.conv_stem, part.bn1, part.blocks[0]):
                cast(nn.Module, early).float()  # half of what bfloat16 costs in accuracy is lost there
            first = part.blocks[1]
    type_ = FAST_TYPE
    first.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(type_),))
    return fold_relu6(network)
