"""ResNet-20 or VGG-7 on CIFAR-10, pruned and quantized while it trains.

    python tools/recipes/cifar10.py cifar-10-batches-bin -o resnet20.onnx [--network vgg7]

The folder is that of the binary version of CIFAR-10 (Krizhevsky 2009): data_batch_1.bin to data_batch_5.bin
and test_batch.bin. A record is one byte for the class and 3 x 32 x 32 bytes: red, green, blue, row by row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.digits.networks import ResNet20
from tools.recipes.training import Batch, accuracy, arguments, compress, tell
from tools.torch_zoo.blocks import conv_norm

__all__ = ["Cifar10", "main", "vgg7"]

RECORD = 1 + 3 * 32 * 32
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images
MARGIN = 4  # pixels by which crops move


@dataclass(frozen=True)
class Cifar10:
    """Images (n, 3, 32, 32) as bytes; labels (n,).

    Args:
        varied: Whether images are cropped and flipped at random, as in training.
    """

    images: Tensor
    labels: Tensor
    varied: bool = False

    @classmethod
    def read(cls, files: Sequence[Path], varied: bool = False) -> Cifar10:
        """Raises ValueError where a file is not made of whole records."""
        parts = []
        for file in files:
            content = np.fromfile(file, np.uint8)
            if not len(content) or len(content) % RECORD:
                raise ValueError(f"{file}: {len(content)} bytes are not whole records of {RECORD}")
            parts.append(content.reshape(-1, RECORD))
        records = torch.from_numpy(np.concatenate(parts))
        return cls(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long(), varied)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, chosen: Tensor) -> Batch:
        images = self.images[chosen].float() / 255
        images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
        return Batch((vary(images) if self.varied else images,), self.labels[chosen])


def vary(images: Tensor) -> Tensor:
    """Each image moved by up to four pixels, and mirrored half of the time (He et al. 2015)."""
    padded = functional.pad(images, [MARGIN] * 4)
    rows, columns = (torch.randint(0, 2 * MARGIN + 1, (len(images),)) for _ in range(2))
    i = (rows[:, None] + torch.arange(images.shape[2]))[:, :, None]
    j = (columns[:, None] + torch.arange(images.shape[3]))[:, None]
    each = torch.arange(len(images))[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[each, i, j].permute(0, 3, 1, 2).contiguous()
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, moved.flip(3), moved)


def vgg7(width: int = 128) -> nn.Module:
    """2 x 128, 2 x 256 and 2 x 512 channels, and one dense layer (Li et al. 2016, arXiv 1605.04711)."""
    layers: list[nn.Module] = []
    into = 3
    for out in (width, 2 * width, 4 * width):
        layers += [conv_norm(into, out, 3), nn.ReLU(), conv_norm(out, out, 3), nn.ReLU(), nn.MaxPool2d(2)]
        into = out
    hidden = 8 * width
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(16 * into, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )


NETWORKS: Mapping[str, Callable[[int | None], nn.Module]] = {
    "resnet20": lambda width: ResNet20(channels=3, width=width or 16),
    "vgg7": lambda width: vgg7(width or 128),
}


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__, lr=0.1, epochs=200, batch=128)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--width", type=int, help="channels of the first stage")
    options = parser.parse_args(given)
    torch.manual_seed(options.seed)
    train = Cifar10.read([options.data / f"data_batch_{i}.bin" for i in range(1, 6)], varied=True)
    test = Cifar10.read([options.data / "test_batch.bin"])
    network = NETWORKS[options.network](options.width)
    # Gradients to a range add up over a whole tensor: SGD would take too long steps at the weights' rate.
    report = compress(network, train, options, "sgd", momentum=0.9, quantizer_lr=options.lr / 100)
    tell(report, f"accuracy {accuracy(options.output, test, options.batch):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
