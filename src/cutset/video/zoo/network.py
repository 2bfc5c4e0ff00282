"""What the networks of the zoo have in common: pictures in, a body, a head that can be left out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Network", "NormalisePictures"]

# Means and standard deviations of ImageNet's red, green and blue, of 255; torchvision trains with them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class NormalisePictures(nn.Module):
    """Normalises 8-bit pictures, so that the graph begins with one byte a value; floats pass as they are."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        super().__init__()
        self.statistics = statistics
        for name in ("mean", "deviation"):
            self.register_buffer(name, torch.empty(1, 3, 1, 1), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Sets the constants again, after they were moved from the meta device without values."""
        for buffer, values in zip((self.mean, self.deviation), self.statistics, strict=True):
            buffer.copy_((torch.tensor(values, dtype=torch.float32) * 255).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, height, width), uint8 or normalised float32, to float32."""
        if pictures.dtype != torch.uint8:
            return pictures
        return (pictures.float() - self.mean) / self.deviation


class Network(nn.Module):
    """A network that begins with `pictures`; subclasses add their layers under torchvision's names."""

    STATISTICS = IMAGENET
    HEAD: tuple[str, ...] = ()  # how the names of the head's parameters begin
    PURE = True  # nothing stays from call to call, and values lie in memory as the exporter says; tests hold that
    UNUSED: tuple[str, ...] = ()  # how names begin that weight files have and inference doesn't need

    def __init__(self) -> None:
        super().__init__()
        self.pictures = NormalisePictures(self.STATISTICS)

    @staticmethod
    def gain(name: str) -> float:
        """The scale of a random parameter, where the usual one would let activations grow with depth."""
        return 1.0

    def timm_names(self) -> Iterable[tuple[str, str]]:
        """The names that timm gives parameters, with those of this network; none where they are the same."""
        return ()

    def become_timm(self) -> None:
        """What else timm's network of this kind has otherwise, beside the names."""
