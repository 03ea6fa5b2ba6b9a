"""VQ-VAE: an image to discrete codes, and back.

    pixel_values [P, 3, S, S] -- convolutions --> [P, C, s, s] -- nearest code --> ids [P, s * s]
    ids -- code vectors [P, C, s, s] -- transposed convolutions --> pixel_values [P, 3, S, S]

Sources: van den Oord et al. 2017 (straight-through gradient; codebook as moving averages, appendix A.1), Dhariwal et
al. 2020 (Jukebox: codes that are no longer used restart at random encodings).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CODE_CHANNELS = 32
COMMITMENT = 0.25
DECAY = 0.95
"""Of the moving averages; 0.99 in the paper, whose runs are far longer."""
DEAD = 0.05
"""Average number of uses per batch below which a code restarts."""


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1)
        self.narrow = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """[P, channels, s, s] -> the same shape."""
        change: Tensor = self.narrow(F.relu(self.wide(F.relu(maps))))
        return maps + change


class Codebook(nn.Module):
    """Code vectors [size, C], moving averages of the encodings nearest to them."""

    def __init__(self, size: int, channels: int = CODE_CHANNELS) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.randn(size, channels))
        self.register_buffer("uses", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, channels))
        self.vectors: Tensor
        self.uses: Tensor
        self.sums: Tensor

    def nearest(self, encodings: Tensor) -> Tensor:
        """[N, C] -> ids of the nearest codes [N]."""
        return torch.cdist(encodings.float(), self.vectors).argmin(dim=1)

    @torch.no_grad()
    def update(self, encodings: Tensor, ids: Tensor) -> None:
        """Move the codes to the averages of their encodings; restart those that are hardly used."""
        encodings = encodings.float()
        counts = torch.bincount(ids, minlength=len(self.uses)).float()
        self.uses.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, ids, encodings), 1 - DECAY)
        dead = (self.uses < DEAD).nonzero().flatten()
        self.uses[dead] = 1.0
        self.sums[dead] = encodings[torch.randint(len(encodings), (len(dead),))]
        self.vectors.copy_(self.sums / self.uses[:, None])


class VQTokenizer(nn.Module):
    """Encoder, codebook and decoder; `tokens` codes for an image of `image_size` pixels a side."""

    def __init__(self, image_size: int, tokens: int, codebook: int, channels: int) -> None:
        super().__init__()
        self.side = math.isqrt(tokens)
        halvings = (image_size // self.side).bit_length() - 1
        widths = [max(channels >> halvings - 1 - n, channels // 4) for n in range(halvings)]
        self.encoder, self.decoder = _encoder(widths), _decoder(widths[::-1])
        self.codebook = Codebook(codebook)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """[P, 3, S, S] -> code ids [P, tokens], row by row; in float32, so that an image always has the same codes."""
        with torch.no_grad(), torch.autocast(pixel_values.device.type, enabled=False):
            return self.codebook.nearest(self._encodings(pixel_values)).view(len(pixel_values), -1)

    def decode(self, ids: Tensor) -> Tensor:
        """Code ids [P, tokens] -> pixel_values [P, 3, S, S]."""
        return self._decode(self.codebook.vectors[ids.flatten()])

    def losses(self, pixel_values: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of a training batch, update the codebook, and report the squared error of the pixels."""
        encodings = self._encodings(pixel_values)
        ids = self.codebook.nearest(encodings)
        self.codebook.update(encodings, ids)
        codes = self.codebook.vectors[ids]
        error = F.mse_loss(self._decode(encodings + (codes - encodings).detach()).float(), pixel_values)
        commitment = F.mse_loss(encodings.float(), codes)
        return error + COMMITMENT * commitment, {"error": float(error.detach()), "codes": float(len(ids.unique()))}

    def _encodings(self, pixel_values: Tensor) -> Tensor:
        """[P, 3, S, S] -> [P * tokens, C]."""
        maps: Tensor = self.encoder(pixel_values)
        return maps.permute(0, 2, 3, 1).flatten(0, 2)

    def _decode(self, codes: Tensor) -> Tensor:
        """[P * tokens, C] -> [P, 3, S, S]."""
        pixel_values: Tensor = self.decoder(codes.unflatten(0, (-1, self.side, self.side)).permute(0, 3, 1, 2))
        return pixel_values


def _encoder(widths: list[int]) -> nn.Sequential:
    """One halving per width, then residual blocks."""
    layers: list[nn.Module] = []
    for before, width in zip([3, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.ReLU()]
    last = widths[-1]
    return nn.Sequential(*layers[:-1], Residual(last), Residual(last), nn.ReLU(), nn.Conv2d(last, CODE_CHANNELS, 1))


def _decoder(widths: list[int]) -> nn.Sequential:
    """Mirror the encoder."""
    first = widths[0]
    layers: list[nn.Module] = [nn.Conv2d(CODE_CHANNELS, first, 3, padding=1), Residual(first), Residual(first)]
    for width, after in zip(widths, [*widths[1:], 3], strict=True):
        layers += [nn.ReLU(), nn.ConvTranspose2d(width, after, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)
