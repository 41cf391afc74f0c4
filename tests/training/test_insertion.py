"""Which values carry a quantizer: names, axes, signs, bits, who reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import getac
from getac.errors import OptionError, UnsupportedModelError
from getac.training.quantizers import PlacedQuantizer, find_quantizers
from getac.training.state import state_of
from tools.torch_zoo.registry import example

Found = dict[str, PlacedQuantizer]


class Applied(nn.Module):
    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def prepared(function: Callable[..., Any], *inputs: Tensor, options: Any = None, **parts: Any) -> Found:
    torch.manual_seed(0)
    module = getac.prepare(Applied(function, **parts), inputs, calibration=[inputs], **(options or {}))
    return named(module)


def named(module: fx.GraphModule) -> Found:
    return {one.name: one for one in find_quantizers(module)}


def activations(found: Found) -> list[str]:
    return [name for name, one in found.items() if not one.of_weight]


def weights(found: Found) -> dict[str, int | None]:
    return {name.removesuffix("_quantizer"): one.axis for name, one in found.items() if one.of_weight}


def readers(one: PlacedQuantizer) -> set[str]:
    return {user.name for user in one.node.users}


IMAGES, ROWS = torch.randn(2, 4, 6, 6), torch.randn(3, 4)


@pytest.mark.parametrize(
    "layer, axis, x",
    [
        (nn.Conv1d(4, 6, 3), 0, torch.randn(2, 4, 6)),
        (nn.Conv2d(4, 6, 3, groups=2), 0, IMAGES),
        (nn.Conv3d(4, 6, 3), 0, torch.randn(2, 4, 5, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 3), 1, torch.randn(2, 4, 6)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 1, IMAGES),
        (nn.ConvTranspose3d(4, 6, 3), 1, torch.randn(2, 4, 5, 5, 5)),
        (nn.Linear(4, 6), 0, ROWS),
    ],
)
def test_one_step_per_output_channel(layer: nn.Module, axis: int, x: Tensor) -> None:
    found = prepared(lambda s, x: s.layer(x).relu(), x, layer=layer)
    assert weights(found) == {"layer.weight": axis}
    one = found["layer.weight_quantizer"]
    assert one.q_m.shape == one.d.shape == (one.x.meta["val"].shape[axis],) and one.t.shape == ()


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


@pytest.mark.parametrize(
    "function, shape, axis, x",
    [
        (lambda s, x: x @ s.w, (4, 6), 1, ROWS),
        (lambda s, x: s.w @ x, (6, 3), 0, ROWS),
        (lambda s, x: x @ s.w, (4,), None, ROWS),
        (lambda s, x: torch.addmm(x[:, :1], x, s.w), (4, 6), 1, ROWS),
        (lambda s, x: torch.bmm(x, s.w.expand(2, 6, 5)), (6, 5), 1, torch.randn(2, 4, 6)),
        (lambda s, x: torch.einsum("bd,de->be", x, s.w), (4, 6), 1, ROWS),
        (lambda s, x: torch.einsum("ed,bd->be", s.w, x), (6, 4), 0, ROWS),
        (lambda s, x: x @ s.w.t(), (6, 4), 0, ROWS),
        (lambda s, x: F.linear(x, s.w.t()), (4, 6), 1, ROWS),
        (lambda s, x: F.linear(x, s.w[2:]), (6, 4), 0, ROWS),
        (lambda s, x: F.linear(x, s.w.chunk(2)[1]), (6, 4), 0, ROWS),
        (lambda s, x: F.linear(x, s.w.view(6, 4)), (24,), None, ROWS),
        (lambda s, x: F.conv1d(x[None], s.w.unsqueeze(1), groups=3), (3, 2), 0, ROWS),
    ],
)
def test_parameters_that_are_multiplied_directly_or_rearranged(
    function: Any, shape: tuple[int, ...], axis: int | None, x: Tensor
) -> None:
    """The quantizer stands at the parameter itself, whatever rearranges it."""
    found = prepared(function, x, w=matrix(*shape))
    assert weights(found) == {"w": axis}
    assert found["w_quantizer"].x.op == "get_attr"


def test_what_is_computed_from_parameters_is_quantized_as_computed() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
    found = prepared(lambda s, x: s.layer(x).relu(), IMAGES, layer=layer)
    [(name, axis)] = weights(found).items()
    assert axis == 0 and "weight_norm" in name and found[f"{name}_quantizer"].q_m.shape == (6,)


def test_constants_of_the_model_are_no_weights_and_their_products_no_layers() -> None:
    def function(s: Any, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(3.0), s.frequencies)
        return s.a(x) + angles @ s.fixed + s.a(s.fixed[:3])  # type: ignore[no-any-return]

    fixed, frequencies = nn.Buffer(torch.randn(4, 4)), nn.Buffer(torch.randn(4))
    found = prepared(function, ROWS, a=nn.Linear(4, 4), fixed=fixed, frequencies=frequencies)
    assert list(found) == ["inputs_0_quantizer", "a.weight_quantizer"]


def test_a_weight_of_two_layers_has_one_quantizer() -> None:
    found = prepared(
        lambda s, x: s.b(s.a(s.a(x).relu())) @ s.a.weight, ROWS, a=nn.Linear(4, 4), b=nn.Linear(4, 4)
    )
    assert weights(found) == {"a.weight": None, "b.weight": 0}  # its output channels are rows and columns
    assert len(found["a.weight_quantizer"].node.users) == 3


def test_embeddings_are_quantized_only_on_request() -> None:
    ids = torch.randint(0, 9, (2, 5))
    parts: dict[str, Any] = {"table": nn.Embedding(9, 4), "out": nn.Linear(4, 9)}
    parts["out"].weight = parts["table"].weight

    def function(s: Any, ids: Tensor) -> Tensor:
        return s.out(s.table(ids).tanh())  # type: ignore[no-any-return]

    found = prepared(function, ids, **parts)
    assert weights(found) == {"out.weight": 0} or weights(found) == {"table.weight": 0}
    [one] = [one for one in found.values() if one.of_weight]
    assert readers(one) == {"linear"}
    found = prepared(function, ids, options={"embeddings": True}, **parts)
    [one] = [one for one in found.values() if one.of_weight]
    assert readers(one) == {"linear", "embedding"}


def test_all_readers_share_one_quantizer_and_outputs_stay_as_they_are() -> None:
    def function(s: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = s.a(x).tanh()
        return s.b(y) + s.c(y) + y, y

    parts = {name: nn.Linear(4, 4) for name in "abc"}
    torch.manual_seed(0)
    module = getac.prepare(Applied(function, **parts), (ROWS,), calibration=[(ROWS,)], activation_bits=2)
    found = named(module)
    assert activations(found) == ["inputs_0_quantizer", "tanh_quantizer"]
    assert readers(found["tanh_quantizer"]) == {"linear_1", "linear_2", "add_1"}
    _, y = module(ROWS)
    assert len(y.unique()) > 3 and y.requires_grad


def test_a_convolutions_result_reaches_a_quantizer_behind_norm_and_clipping() -> None:
    """onnxruntime's integer convolution writes integers; the sum reads two quantized values."""

    def function(s: Any, x: Tensor) -> Tensor:
        y = s.norm(s.a(x))
        return F.avg_pool2d(F.silu(s.b(F.relu6(y))) + F.dropout(s.c(x).relu(), 0.1, s.training), 2)

    parts = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "abc"}
    found = prepared(function, IMAGES, norm=nn.BatchNorm2d(4), **parts)
    assert activations(found) == [f"{name}_quantizer" for name in ("inputs_0", "relu6", "conv2d_1", "relu")]
    assert [one.bits.signed for one in found.values() if not one.of_weight] == [True, False, True, False]
    assert readers(found["inputs_0_quantizer"]) == {"conv2d", "conv2d_2"}


def test_a_transposed_convolution_and_a_graph_output_need_none() -> None:
    found = prepared(
        lambda s, x: s.b(s.a(x).tanh()).flatten(2),
        IMAGES,
        a=nn.ConvTranspose2d(4, 4, 3),
        b=nn.Conv2d(4, 3, 1),
    )
    assert activations(found) == ["inputs_0_quantizer", "tanh_quantizer"]


def test_what_is_rearranged_or_picked_is_quantized_once_in_front() -> None:
    def function(s: Any, x: Tensor) -> Tensor:
        y = F.max_pool2d(s.a(x).relu(), 2)
        left, right = y.chunk(2, dim=1)
        return s.d(s.b(right).sigmoid().flatten(2).transpose(1, 2)) + s.c(left).flatten(2).mT  # type: ignore[no-any-return]

    found = prepared(
        function, IMAGES, a=nn.Conv2d(4, 8, 1), b=nn.Conv2d(4, 6, 1), c=nn.Conv2d(4, 5, 1), d=nn.Linear(6, 5)
    )
    expected = ["inputs_0", "relu", "conv2d_1", "sigmoid", "conv2d_2"]
    assert activations(found) == [f"{name}_quantizer" for name in expected]
    assert readers(found["relu_quantizer"]) == {"max_pool2d"}


SIGNS: list[tuple[Callable[[Tensor], Tensor], bool]] = [
    (torch.relu, False),
    (F.relu6, False),
    (torch.sigmoid, False),
    (F.hardsigmoid, False),
    (lambda x: x.softmax(-1), False),
    (lambda x: x.clamp(min=0.5), False),
    (lambda x: F.hardtanh(x, 0.0, 2.0), False),
    (lambda x: F.avg_pool2d(x.relu(), 2), False),
    (lambda x: F.dropout(x.relu()), False),
    (lambda x: F.pad(x.relu(), (1, 1)), False),
    (lambda x: torch.cat([x.relu(), x.sigmoid()], 1)[:, 2:6].contiguous(), False),
    (lambda x: x.relu().mean((2, 3), keepdim=True) + x.abs(), False),
    (lambda x: F.interpolate(x.relu(), scale_factor=2.0), False),
    (lambda x: F.interpolate(x.relu(), scale_factor=2.0, mode="bicubic"), True),
    (lambda x: torch.cat([x.relu(), x.tanh()], 1)[:, 2:6], True),
    (lambda x: x.relu() - 1, True),
    (lambda x: x.relu() + -1, True),
    (lambda x: x.relu() * -1, True),
    (lambda x: F.pad(x.relu(), (1, 1), value=-1.0), True),
    (lambda x: F.leaky_relu(x), True),
    (lambda x: x.clamp(max=1.0), True),
    (lambda x: x.clamp(min=-1.0), True),
    (lambda x: F.alpha_dropout(x.relu(), 0.5, True), True),
    (F.gelu, True),
    (F.hardswish, True),
]


@pytest.mark.parametrize("function, signed", SIGNS)
def test_what_cannot_be_negative_has_no_sign(function: Callable[[Tensor], Tensor], signed: bool) -> None:
    found = prepared(lambda s, x: s.out(function(x.tanh())).tanh(), IMAGES, out=nn.Conv2d(4, 3, 1))
    [one] = [one for one in found.values() if not one.of_weight and is_read_by_conv(one)]
    assert one.bits.signed is signed


def is_read_by_conv(one: PlacedQuantizer) -> bool:
    """Whether the convolution reads it, directly or rearranged."""
    return any(
        "conv" in user.name or any("conv" in next_.name for next_ in user.users) for user in one.node.users
    )


def chain(**options: Any) -> Found:
    def function(s: Any, x: Tensor) -> Tensor:
        return s.d(s.c(s.b(s.a(x).relu()).relu()).relu()).softmax(-1)  # type: ignore[no-any-return]

    return prepared(function, ROWS, options=options, **{name: nn.Linear(4, 4) for name in "abcd"})


def bits_of(found: Found) -> dict[str, tuple[float, float]]:
    return {name.removesuffix("_quantizer"): (one.bits.least, one.bits.most) for name, one in found.items()}


def test_the_first_and_the_last_layer_have_eight_bits() -> None:
    wanted = {"inputs_0": 8, "a.weight": 8, "relu": 3, "b.weight": 4, "relu_1": 3, "c.weight": 4}
    wanted |= {"relu_2": 8, "d.weight": 8}
    found = bits_of(chain(weight_bits=4, activation_bits=3))
    assert found == {name: (bits, bits) for name, bits in wanted.items()}
    between = bits_of(chain(weight_bits=(3, 16), activation_bits=(2, 6)))
    assert between["b.weight"] == (3, 16) and between["a.weight"] == between["d.weight"] == (8, 16)
    assert between["relu"] == (2, 6) and between["inputs_0"] == (8, 8)
    assert bits_of(chain(weight_bits=12))["a.weight"] == (12, 12)


def test_overrides_decide_the_last_one_that_matches() -> None:
    found = bits_of(
        chain(weight_bits=4, overrides={"*.weight": 5, "a.*": 2, "relu*": (4, 6), "relu_1": None})
    )
    assert found["a.weight"] == (2, 2) and found["d.weight"] == (5, 5)
    assert found["relu"] == found["relu_2"] == (4, 6) and "relu_1" not in found
    assert found["inputs_0"] == (8, 8)


@pytest.mark.parametrize("glob", ["table.weight", "out.weight", "o*"])
def test_overrides_know_a_tied_weight_by_each_of_its_names(glob: str) -> None:
    ids = torch.randint(0, 9, (2, 5))
    parts: dict[str, Any] = {"table": nn.Embedding(9, 4), "out": nn.Linear(4, 9)}
    parts["out"].weight = parts["table"].weight
    options = {"overrides": {"*": 8, glob: 3}}
    found = prepared(lambda s, ids: s.out(s.table(ids).tanh()), ids, options=options, **parts)
    assert bits_of(found)["table.weight"] == (3, 3)


def test_a_layer_whose_weight_stays_a_float_needs_no_quantized_input() -> None:
    assert list(bits_of(chain(overrides={"b.weight": None}))) == [
        "inputs_0",
        "a.weight",
        "relu_1",
        "c.weight",
        "relu_2",
        "d.weight",
    ]


def test_one_kind_alone() -> None:
    assert all(name.endswith("weight") for name in bits_of(chain(activation_bits=None)))
    assert list(bits_of(chain(weight_bits=None))) == ["inputs_0", "relu", "relu_1", "relu_2"]
    assert chain(weight_bits=None, activation_bits=None) == {}
    assert list(bits_of(chain(weight_bits=None, overrides={"c.weight": 4}))) == [
        "inputs_0",
        "relu",
        "relu_1",
        "c.weight",
        "relu_2",
    ]


@pytest.mark.parametrize("bits", [1, 17, 0, -8, 8.0, "8", True, (8, 4), (4, 6, 8), (), (1, 8), [2, 17]])
@pytest.mark.parametrize("option", ["weight_bits", "activation_bits"])
def test_numbers_of_bits_that_are_none_are_refused(option: str, bits: Any) -> None:
    with pytest.raises(OptionError, match="no number of bits") as caught:
        chain(**{option: bits})
    assert caught.value.where == option and caught.value.found == repr(bits)
    with pytest.raises(OptionError):
        chain(overrides={"a.weight": bits})


@pytest.mark.parametrize("glob", ["e.weight", "a.bias", "softmax", "layer*"])
def test_globs_that_match_nothing_are_refused(glob: str) -> None:
    with pytest.raises(OptionError, match="matches nothing") as caught:
        chain(overrides={"*.weight": 4, glob: 4})
    assert repr(glob) in str(caught.value.found) and "a.weight" in str(caught.value.found)


def test_overrides_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(OptionError, match="not given by name"):
        chain(overrides=["a.weight"])


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no layer"):
        prepared(lambda s, x: x.relu(), ROWS)
    with pytest.raises(UnsupportedModelError, match="no layer"):
        prepared(lambda s, x: x @ x.mT, ROWS)


def zoo(name: str, **options: Any) -> tuple[Found, fx.GraphModule]:
    given = example(name)
    batch = dict(given.kwargs) if given.kwargs else given.args
    module = getac.prepare(given.module, given.args, given.kwargs, calibration=[batch], **options)
    return named(module), module


def test_resnet() -> None:
    found, module = zoo("resnet", weight_bits=4)
    assert set(weights(found)) == {
        name
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1 and "quantizer" not in name
    }
    # The input; each convolution behind its norm (or that and the clipping); each sum; the pooled features.
    operators = [
        str(one.x.target).split(".")[1]
        for one in found.values()
        if not one.of_weight and one.x.op != "placeholder"
    ]
    assert sorted(operators) == sorted(["relu"] * 6 + ["batch_norm"] * 4 + ["adaptive_avg_pool2d"])
    for one in found.values():
        sources = {user.target for user in one.node.users}
        if one.x.target is torch.ops.aten.batch_norm.default:
            assert sources <= {torch.ops.aten.add.Tensor} and one.bits.signed
    assert bits_of(found)["0.0.weight"] == (8, 8) and bits_of(found)["3.first.0.weight"] == (4, 4)


def test_mobilenet() -> None:
    found, _ = zoo("mobilenet")
    depthwise = [one for one in found.values() if one.of_weight and one.x.meta["val"].shape[1] == 1]
    assert len(depthwise) == 3 and all(one.axis == 0 for one in depthwise)
    kinds = [one.bits.signed for one in found.values() if not one.of_weight]
    assert len(kinds) == 15 and kinds.count(False) == 9  # eight of ReLU6, and their average


def test_bert() -> None:
    found, _ = zoo("bert", weight_bits=4, activation_bits=4)
    layer = "bert.encoder.layer.1.attention.self"
    shared = [one for one in found.values() if len(one.node.users) > 2]
    [between] = shared  # queries, keys, values and the residual sum read one value
    assert len(readers(between)) == 4
    [embedded] = [one for one in found.values() if readers(one) == {"dropout"}]  # likewise, behind a dropout
    assert not embedded.of_weight
    assert bits_of(found)[f"{layer}.query.weight"] == (4, 4)
    assert [name for name, bits in bits_of(found).items() if bits[0] == 8][-1] == "classifier.weight"
    assert len([bits for bits in bits_of(found).values() if bits[0] == 8]) == 2
    assert len(activations(found)) == 10 and len(weights(found)) == 14


def test_gpt2() -> None:
    found, _ = zoo("gpt2")
    axes = weights(found)
    assert axes.pop("transformer.wte.weight", None) == 0 or axes.pop("lm_head.weight") == 0
    assert len(axes) == 8 and set(axes.values()) == {1}  # a Conv1D of transformers multiplies from the right
    assert not any(
        "embedding" in user.name for one in found.values() if one.of_weight for user in one.node.users
    )
    assert not any("view" in name for name in activations(found))


def test_swin() -> None:
    found, module = zoo("swin")
    assert len(weights(found)) == 27 and len(activations(found)) == 20
    assert not any("relative_position" in name for name in weights(found))
    noted = state_of(module).insertions
    assert [one.name for one in noted if one.axis is None] == activations(found)
    assert {one.name for one in noted} == set(found)
