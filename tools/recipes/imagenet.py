"""ResNet-50 on a folder of images in the layout of ImageNet, pruned and quantized while it trains.

    python tools/recipes/imagenet.py FOLDER -o resnet50.onnx [--weights STATE]      needs pillow

    FOLDER/train/n01440764/*.JPEG ...      one folder per class, in any format that pillow reads
    FOLDER/val/n01440764/*.JPEG ...

`--weights` takes a file of safetensors with the names of this network's parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tools.bench_analysis import Setting, residual_net
from tools.recipes.training import Batch, accuracy, arguments, compress, tell

__all__ = ["Folder", "main"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT_SIDE = 256 / 224  # of an image, before the middle of it is cut out


@dataclass(frozen=True)
class Folder:
    """Files of images, and the position of each one's class among the sorted names of the folders.

    Args:
        size: Height and width that they are brought to.
        varied: Whether a random part of an image is taken, as in training.
    """

    files: Sequence[Path]
    labels: Sequence[int]
    size: int
    varied: bool = False

    @classmethod
    def read(cls, folder: Path, size: int, varied: bool = False) -> Folder:
        """Raises ValueError where there are no images."""
        classes = sorted(one for one in folder.iterdir() if one.is_dir())
        found = [(file, label) for label, one in enumerate(classes) for file in sorted(one.iterdir())]
        if not found:
            raise ValueError(f"{folder}: no folders with images")
        files, labels = zip(*found, strict=True)
        return cls(files, labels, size, varied)

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, chosen: Tensor) -> Batch:
        cut = random_part if self.varied else middle
        images = torch.stack([pixels(cut(self.files[i], self.size)) for i in chosen.tolist()])
        return Batch((images,), torch.tensor([self.labels[i] for i in chosen.tolist()]))


def middle(file: Path, size: int) -> Image.Image:
    with Image.open(file) as image:
        scale = size * SHORT_SIDE / min(image.size)
        width, height = (max(round(side * scale), size) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        whole: Image.Image = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        part: Image.Image = whole.crop((left, top, left + size, top + size))
        return part


def random_part(file: Path, size: int) -> Image.Image:
    """8 to 100 % of the area, of 3:4 to 4:3 (Szegedy et al. 2014), mirrored half of the time."""
    with Image.open(file) as image:
        share, ratio, x, y, mirror = torch.rand(5).tolist()
        area, aspect = image.width * image.height * (0.08 + 0.92 * share), (4 / 3) ** (2 * ratio - 1)
        width = min(max(round((area * aspect) ** 0.5), 1), image.width)
        height = min(max(round((area / aspect) ** 0.5), 1), image.height)
        left, top = int(x * (image.width - width)), int(y * (image.height - height))
        box = (left, top, left + width, top + height)
        part: Image.Image = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)
        if mirror < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return part


def pixels(image: Image.Image) -> Tensor:
    """Shape (3, height, width), normalised."""
    array = np.asarray(image, np.float32) / 255
    normalised = (array - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(normalised).permute(2, 0, 1)


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__, lr=0.1, epochs=120, batch=256)
    parser.add_argument("--weights", type=Path, help="where training starts")
    parser.add_argument("--image", type=int, default=224, help="height and width")
    parser.add_argument("--blocks", type=int, nargs="+", default=(3, 4, 6, 3), help="of each stage")
    parser.add_argument("--channels", type=int, default=64, help="of the first stage")
    options = parser.parse_args(given)
    network = residual_net(Setting(blocks=tuple(options.blocks), channels=options.channels))
    if options.weights:
        network.load_state_dict(load_file(options.weights))
    torch.manual_seed(options.seed)
    train = Folder.read(options.data / "train", options.image, varied=True)
    test = Folder.read(options.data / "val", options.image)
    report = compress(network.train(), train, options, "sgd", momentum=0.9, quantizer_lr=options.lr / 100)
    tell(report, f"accuracy {accuracy(options.output, test, options.batch):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
