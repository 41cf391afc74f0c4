"""scikit-learn's digits as images of 16 x 16: 1347 to train on, 450 to test on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor
from torch.nn import functional

__all__ = ["Images", "load_digits"]

TRAINED = 1347


@dataclass(frozen=True)
class Images:
    """Images (n, 1, 16, 16), of mean 0 and deviation 1 over those to train on; labels (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice | Tensor) -> Images:
        return Images(self.images[chosen], self.labels[chosen])


def load_digits() -> tuple[Images, Images]:
    """Those to train on, and those to test on."""
    found = datasets.load_digits()
    order = np.random.RandomState(0).permutation(len(found.target))
    small = torch.from_numpy(found.images[order, None].astype(np.float32))
    images = functional.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    images = (images - images[:TRAINED].mean()) / images[:TRAINED].std()
    every = Images(images, torch.from_numpy(found.target[order].astype(np.int64)))
    return every[:TRAINED], every[TRAINED:]
