"""The zoo: a small instance of every family, for tests and sweeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx

from tools.zoo.densenet import densenet
from tools.zoo.inception import inception
from tools.zoo.mlp import mlp
from tools.zoo.mobilenet import mobilenet_v2
from tools.zoo.resnet import resnet18
from tools.zoo.se_net import se_net
from tools.zoo.shufflenet import shufflenet_v1, shufflenet_v2
from tools.zoo.squeezenet import squeezenet
from tools.zoo.transformer import transformer
from tools.zoo.unet import unet
from tools.zoo.vgg import vgg

_MOBILE_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2))

# Small means: builds and runs in milliseconds, and has every structure of the full network at least once.
ZOO: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet": partial(resnet18, width=16, image=32, classes=10),
    "vgg": partial(vgg, stages=(1, 1, 2), width=16, hidden=64, image=32, classes=10),
    "densenet": partial(densenet, blocks=(2, 3), growth=8, image=32, classes=10),
    "mobilenet_v2": partial(mobilenet_v2, stages=_MOBILE_STAGES, width=0.5, last=128, image=32, classes=10),
    "squeezenet": partial(squeezenet, stages=((4, 4), (8, 8)), width=16, image=32, classes=10),
    "inception": partial(inception, width=16, image=32, classes=10),
    "shufflenet_v1": partial(shufflenet_v1, repeats=(2, 2), width=48, groups=2, image=32, classes=10),
    # 3 groups of 4 channels, shuffled, do not line up with the next 3 groups of 4: all is frozen.
    "shufflenet_v1_frozen": partial(shufflenet_v1, repeats=(2, 2), width=48, groups=3, image=32, classes=10),
    "shufflenet_v2": partial(shufflenet_v2, repeats=(2, 2), width=32, last=64, image=32, classes=10),
    "mlp_matmul": partial(mlp, style="matmul", activation="Relu", features=64, hidden=(48, 32)),
    "mlp_gemm": partial(mlp, style="gemm", activation="Sigmoid", features=64, hidden=(48, 32)),
    "mlp_gemm_transposed": partial(mlp, activation="Tanh", features=64, hidden=(48, 32)),
    "se_net": partial(se_net, stages=2, width=16, image=32, classes=10),
    "unet": partial(unet, depth=2, width=8, image=32, classes=3),
    "transformer": partial(transformer, layers=2, heads=4, width=32, hidden=64, tokens=8),
}
