"""What the dependency analysis takes, against its targets, as JSON.

    python tools/bench_analysis.py [--json FILE] [--quick]

Times are medians of CPU time over interleaved runs in one process on one thread; capture, building and
reading of models are not counted; the inference of shapes is.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx, nn

from getac.axes.analysis import analyze_view
from getac.axes.infer import infer
from getac.axes.slabs import check_masking
from getac.fx_graph.capture import capture
from getac.fx_graph.view import FxView
from getac.onnx_graph.shapes import infer_shapes
from getac.onnx_graph.view import OnnxView
from tools.benchmark import Figure, command, cpu_seconds, interleaved, median, spread
from tools.zoo.builder import GraphBuilder
from tools.zoo.transformer import transformer

if TYPE_CHECKING:
    from getac.view import GraphView

__all__ = ["main"]

LAYER_NODES, OTHER_NODES = 29, 3  # of the zoo's transformer
HOTTEST = 5


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        blocks: Blocks of each stage of the residual net; (3, 4, 6, 3) is ResNet-50.
        channels: Channels inside a block of its first stage.
        image: Height and width of an image.
        nodes: Sizes of the ONNX transformers; the last one is held to the target.
        width: Of the narrowest transformer.
        factors: What the width is multiplied by; `width_nodes` nodes each.
        rounds: Interleaved runs of the residual net.
        slow_rounds: Interleaved runs of everything else.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    channels: int = 64
    image: int = 224
    nodes: tuple[int, ...] = (1_000, 2_500, 5_000, 10_000)
    width: int = 64
    factors: tuple[int, ...] = (1, 4, 16)
    width_nodes: int = 2_500
    rounds: int = 100
    slow_rounds: int = 15


FULL = Setting()
QUICK = Setting(
    blocks=(1, 1),
    channels=4,
    image=16,
    nodes=(32, 61),
    width=32,
    factors=(1, 2),
    width_nodes=32,
    rounds=3,
    slow_rounds=3,
)


class Bottleneck(nn.Module):
    """The block of ResNet-50 (He et al. 2015, arXiv 1512.03385; the stride lies in the 3x3 convolution)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        out = 4 * channels
        self.reduce = normalized(nn.Conv2d(channels_in, channels, 1, bias=False))
        self.window = normalized(nn.Conv2d(channels, channels, 3, stride, 1, bias=False))
        self.expand = normalized(nn.Conv2d(channels, out, 1, bias=False))
        same = stride == 1 and channels_in == out
        shortcut = nn.Conv2d(channels_in, out, 1, stride, bias=False)
        self.shortcut = nn.Identity() if same else normalized(shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.window(torch.relu(self.reduce(x))))
        return torch.relu(self.expand(y) + self.shortcut(x))


def normalized(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


def residual_net(setting: Setting) -> nn.Module:
    """ResNet-50 at the full setting, with random weights."""
    torch.manual_seed(0)
    channels = setting.channels
    layers: list[nn.Module] = [
        normalized(nn.Conv2d(3, channels, 7, 2, 3, bias=False)),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    width = channels
    for stage, blocks in enumerate(setting.blocks):
        for block in range(blocks):
            layers.append(Bottleneck(width, channels << stage, 2 if stage and not block else 1))
            width = 4 * channels << stage
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000)]
    return nn.Sequential(*layers, *head).eval()


class UnreadBuilder(GraphBuilder):
    """Its weights stand in a file that does not exist: an analysis that read one would fail."""

    def parameter(self, op: str, role: str, value: NDArray[Any], dtype: type = np.float32) -> str:
        if dtype is not np.float32:
            return super().parameter(op, role, value, dtype)
        name = f"{self.next_name(op)}.{role}"
        tensor = onnx.TensorProto(name=name, dims=value.shape, data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="no-such-file")
        self._initializers[name] = tensor
        return name

    def _normal(self, shape: tuple[int, ...], deviation: float) -> NDArray[Any]:
        return np.broadcast_to(np.float32(deviation), shape)  # only its shape is used


def unread_transformer(nodes: int, width: int) -> ir.Model:
    """An encoder of about that many nodes, whose width costs no memory.

    No tensor has 16 floats or fewer: those could be sizes, and shape inference reads them.
    """
    layers = max(round((nodes - OTHER_NODES) / LAYER_NODES), 1)
    proto = transformer(
        layers=layers,
        heads=4,
        width=width,
        hidden=4 * width,
        tokens=16,
        classes=1000,
        builder=UnreadBuilder,
    )
    return ir.from_proto(proto)


def main(arguments: Sequence[str] | None = None) -> int:
    return command(__doc__, lambda quick: measure(QUICK if quick else FULL), arguments)


def measure(setting: Setting) -> dict[str, Any]:
    torch.set_num_threads(1)
    return {
        "setting": asdict(setting),
        "resnet50": resnet_figures(setting),
        "onnx_transformer": transformer_figures(setting),
        "width": width_figures(setting),
    }


def resnet_figures(setting: Setting) -> dict[str, Any]:
    """A captured network: our analysis, and Torch-Pruning's of the same module."""
    net = residual_net(setting)
    image = torch.randn(1, 3, setting.image, setting.image)
    graph = capture(net, (image.repeat(2, 1, 1, 1),))
    view = partial(FxView, graph)
    ours = stage_times(view, setting.rounds)
    return {
        "ms": Figure(median(ours["all"]) * 1e3, at_most=10).as_json(),
        "spread_ms": spread(ours["all"]),
        "nodes": len(view().nodes),
        "parameters": len(view().parameters),
        **against_torch_pruning(net, image, graph, setting.slow_rounds),
        "limits": limits(view, ours),
    }


def against_torch_pruning(
    net: nn.Module, image: torch.Tensor, graph: fx.GraphModule, rounds: int
) -> dict[str, Any]:
    """How much longer its dependency build and the listing of all groups take, interleaved with ours."""
    try:
        import torch_pruning
    except ImportError:
        return {"to_torch_pruning": None, "hint": "for the comparison: pip install 'getac[bench]'"}

    def build() -> Any:
        return torch_pruning.DependencyGraph().build_dependency(net, example_inputs=image)

    built = build()
    times = interleaved(
        {
            "ours": lambda: analyze_view(FxView(graph)),
            "build": build,
            "groups": lambda: list(built.get_all_groups()),
        },
        rounds,
    )
    forward = interleaved({"forward": partial(net, image)}, rounds)
    theirs = [sum(pair) for pair in zip(times["build"], times["groups"], strict=True)]
    return {
        "to_torch_pruning": Figure(median(theirs) / median(times["ours"]), at_least=15).as_json(),
        "torch_pruning_ms": {
            "build": median(times["build"]) * 1e3,
            "groups": median(times["groups"]) * 1e3,
            "spread": spread(theirs),
            "one_forward_pass": median(forward["forward"]) * 1e3,  # its build runs the network once
        },
    }


def transformer_figures(setting: Setting) -> dict[str, Any]:
    """ONNX graphs of growing depth; a figure counts both the inference of shapes and the analysis."""
    models = {
        len(model.graph): model for model in (unread_transformer(n, setting.width) for n in setting.nodes)
    }
    views = {nodes: onnx_view(model) for nodes, model in models.items()}
    shapes = interleaved(
        {nodes: partial(infer_shapes, model) for nodes, model in models.items()}, setting.slow_rounds
    )
    analysis = interleaved(
        {nodes: partial(analyze_anew, view) for nodes, view in views.items()}, setting.slow_rounds
    )
    times = {
        nodes: [sum(pair) for pair in zip(shapes[nodes], analysis[nodes], strict=True)] for nodes in models
    }
    largest = max(models)
    per_node = {nodes: median(series) / nodes * 1e6 for nodes, series in times.items()}
    return {
        "seconds": Figure(median(times[largest]), at_most=1).as_json(),
        "spread_seconds": spread(times[largest], 1),
        "nodes": largest,
        "shape_inference_seconds": median(shapes[largest]),
        "analysis_seconds": median(analysis[largest]),
        "us_per_node": {str(nodes): us for nodes, us in per_node.items()},
        # Linear: a node costs the same in a graph of ten times the size, but for the processor's caches.
        "largest_to_best_per_node": Figure(per_node[largest] / min(per_node.values()), at_most=1.5).as_json(),
        "limits": limits(views[largest], stage_times(views[largest], max(setting.slow_rounds // 3, 1))),
    }


def width_figures(setting: Setting) -> dict[str, Any]:
    """The same graph with wider layers."""
    widths = [setting.width * factor for factor in setting.factors]
    views = {width: onnx_view(unread_transformer(setting.width_nodes, width)) for width in widths}
    times = interleaved(
        {width: partial(analyze_anew, view) for width, view in views.items()}, setting.slow_rounds
    )
    medians = {width: median(series) * 1e3 for width, series in times.items()}
    return {
        "widest_to_narrowest": Figure(medians[widths[-1]] / medians[widths[0]], at_most=1.2).as_json(),
        "ms": {str(width): ms for width, ms in medians.items()},
        "spread_ms": {str(width): spread(series) for width, series in times.items()},
    }


def onnx_view(model: ir.Model) -> Callable[[], OnnxView]:
    return partial(OnnxView, model, infer_shapes(model))


def analyze_anew(view: Callable[[], GraphView]) -> None:
    analyze_view(view())


def stage_times(view: Callable[[], GraphView], rounds: int) -> dict[str, list[float]]:
    """Seconds of the whole analysis, and of its three large steps."""
    times: dict[str, list[float]] = {"all": [], "view": [], "equations": [], "masked equals sliced": []}
    for _ in range(rounds):
        times["all"].append(cpu_seconds(partial(analyze_anew, view)))
        seen = view()
        solved = infer(view())
        times["view"].append(cpu_seconds(view))
        times["equations"].append(cpu_seconds(partial(infer, seen)))
        times["masked equals sliced"].append(cpu_seconds(partial(check_masking, seen, solved)))
    return times


def limits(view: Callable[[], GraphView], times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Where the time goes: shares of the steps, and of the functions that take most by themselves."""
    whole = median(times["all"])
    steps = {step: median(series) / whole for step, series in times.items() if step != "all"}
    profile = cProfile.Profile()
    cpu_seconds(partial(profile.runcall, analyze_anew, view))  # as it is timed: garbage apart
    stats: Any = pstats.Stats(profile)
    ranked = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:HOTTEST]
    return {
        "steps": {**steps, "the rest": max(1 - sum(steps.values()), 0.0)},
        "hottest_functions": {
            f"{Path(file).name}:{name}": own / stats.total_tt for (file, _, name), (_, _, own, *_) in ranked
        },
    }


if __name__ == "__main__":
    sys.exit(main())
