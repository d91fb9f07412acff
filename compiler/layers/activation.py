"""Activations: where a population of neurons stands. What they compute is in `activations.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.activations import QCFS, Activation, Clip, Curve, Dynamics
from lapilli.compiler.ir import Node
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, real
from lapilli.compiler.linear import Array, per_channel


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Activate(Node):
    """activation(gain * input + shift), elementwise; gain and shift are not 1 and 0 where a layer
    is a clipped line, such as hard-sigmoid.
    """

    activation: Activation
    gain: float = 1.0
    shift: float = 0.0

    @property
    def kind(self) -> str:
        return self.activation.name


def _node(
    call: Call, input: Operand, activation: Activation, gain: float = 1.0, shift: float = 0.0
) -> Node:
    return Activate(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        activation=activation,
        gain=gain,
        shift=shift,
    )


def _curve(call: Call, input: Operand, name: str, *parameters: Any) -> Node:
    arrays = tuple(_parameter(call, value) for value in parameters)
    return _node(call, input, Curve(name, arrays))


def _parameter(call: Call, value: Any) -> Array:
    """() or (C,), finite."""
    array = real(np.asarray(value))
    array = array.reshape(()) if array.size == 1 else array
    if not np.isfinite(array).all() or array.shape not in ((), call.shape[:1]):
        raise call.refuse(
            "an activation's parameters are finite, one for all units or one per channel",
            f"shape {array.shape}" if np.isfinite(array).all() else "NaN or infinity",
            f"() or ({call.shape[0]},)",
            "Correct the parameter.",
        )
    return array


def _relu(call: Call, *, input: Operand, inplace: bool = False) -> Node:
    return _node(call, input, Clip(0.0))


def _clip(
    call: Call, *, input: Operand, min: Any = None, max: Any = None, inplace: bool = False
) -> Node:
    bounds = [np.asarray(v, float) for v in (min, max) if v is not None]
    if all(b.size == 1 for b in bounds):
        low = -np.inf if min is None else float(np.asarray(min).reshape(()))
        high = np.inf if max is None else float(np.asarray(max).reshape(()))
        if np.isnan([low, high]).any() or low >= high:
            raise call.refuse(
                "a lower bound lies below the upper one", (low, high), "min < max", "Correct them."
            )
        return _node(call, input, Clip(low, high))
    return _curve(
        call, input, "clip", *(_bound(call, v, end) for v, end in ((min, -_FAR), (max, _FAR)))
    )


_FAR = 1e30
"""Stands for no bound beside bounds per channel."""


def _bound(call: Call, value: Any, otherwise: float) -> Array:
    """() or (C,) from anything that broadcasts to the operand as such."""
    array = np.asarray(otherwise if value is None else value, dtype=float)
    channels = None
    if np.broadcast_shapes(array.shape, call.shape) == call.shape:
        channels = per_channel(array, call.shape)
    if channels is None:
        raise call.refuse(
            "bounds are numbers, or one per channel",
            f"shape {array.shape}",
            f"() or ({call.shape[0]}{', 1' * (len(call.shape) - 1)})",
            "Clip channels alike.",
        )
    return channels


def _at_least(call: Call, *, input: Operand, min: Any, inplace: bool = False) -> Node:
    return _clip(call, input=input, min=min)


def _at_most(call: Call, *, input: Operand, max: Any) -> Node:
    return _clip(call, input=input, max=max)


def _relu6(call: Call, *, input: Operand, inplace: bool = False) -> Node:
    return _node(call, input, Clip(0.0, 6.0))


def _hardtanh(
    call: Call,
    *,
    input: Operand,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Node:
    return _clip(call, input=input, min=min_val, max=max_val)


def _hard_sigmoid(call: Call, *, input: Operand, inplace: bool = False) -> Node:
    return _node(call, input, Clip(0.0, 1.0), 1.0 / 6.0, 0.5)


def _leaky_relu(
    call: Call, *, input: Operand, negative_slope: float = 0.01, inplace: bool = False
) -> Node:
    return _curve(call, input, "leaky_relu", negative_slope)


def _prelu(call: Call, *, input: Operand, weight: Array) -> Node:
    return _curve(call, input, "leaky_relu", weight)


def _spiking(
    call: Call, *, input: Operand, threshold: Array, dynamics: Dynamics, analog: bool
) -> Node:
    if not analog:
        raise call.refuse(
            "a network of spikes is compiled by its answer to a constant drive",
            f"{call.called} that runs over {dynamics.steps} steps",
            "analog mode",
            "Compile SpikingNetwork(...).analog() with the method that .method() says.",
        )
    levels = dynamics.levels * dynamics.steps
    node = _qcfs(call, input=input, threshold=threshold, levels=levels)
    assert isinstance(node, Activate)
    assert isinstance(node.activation, Curve)
    return dataclasses.replace(
        node, activation=dataclasses.replace(node.activation, dynamics=dynamics)
    )


def _qcfs(call: Call, *, input: Operand, threshold: Array, levels: int) -> Node:
    if not (np.asarray(threshold) > 0).all():
        raise call.refuse(
            "a staircase has steps of a positive height",
            np.asarray(threshold).min(),
            "> 0",
            "Train on with a smaller step, so that no threshold passes zero.",
        )
    return _curve(call, input, QCFS, threshold, levels)


def _rrelu(
    call: Call,
    *,
    input: Operand,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Node:
    return _curve(call, input, "leaky_relu", (lower + upper) / 2)


def _softplus(call: Call, *, input: Operand, beta: float = 1.0, threshold: float = 20.0) -> Node:
    return _curve(call, input, "softplus", beta, threshold)


def _elu(call: Call, *, input: Operand, alpha: float = 1.0, inplace: bool = False) -> Node:
    return _curve(call, input, "elu", alpha, 1.0, 1.0)


def _celu(call: Call, *, input: Operand, alpha: float = 1.0, inplace: bool = False) -> Node:
    return _curve(call, input, "elu", alpha, 1.0, 1.0 / alpha)


def _selu(call: Call, *, input: Operand, inplace: bool = False) -> Node:
    # Klambauer et al. 2017 (arXiv 1706.02515), equation 14.
    return _curve(call, input, "elu", 1.6732632423543772, 1.0507009873554805, 1.0)


def _gelu(call: Call, *, input: Operand, approximate: str = "none") -> Node:
    return _curve(call, input, "gelu" if approximate == "none" else "gelu_tanh")


def _threshold(
    call: Call, *, input: Operand, threshold: float, value: float, inplace: bool = False
) -> Node:
    if value > threshold:
        raise call.refuse(
            "a threshold's value lies at or below it",
            f"value {value} above the threshold {threshold}",
            "value <= threshold",
            "Subtract the difference before and add it behind.",
        )
    return _curve(call, input, "threshold", threshold, value)


def _soft_shrink(call: Call, *, input: Operand, lambd: float = 0.5) -> Node:
    return _curve(call, input, "softshrink", lambd)


def _hard_shrink(call: Call, *, input: Operand, lambd: float = 0.5) -> Node:
    return _curve(call, input, "hardshrink", lambd)


def _power(call: Call, *, input: Any, exponent: Any) -> Node:
    if not isinstance(input, Operand) or np.ndim(exponent) or exponent != 2:
        raise call.refuse(
            "a power is a square",
            f"exponent {exponent}" if isinstance(input, Operand) else "a power of a constant",
            "x ** 2",
            "Write other powers as products.",
        )
    return _curve(call, input, "square")


def _exported_elu(
    call: Call, *, input: Operand, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Node:
    return _curve(call, input, "elu", alpha, scale, input_scale)


def _onnx_prelu(call: Call, *, input: Operand, weight: Array) -> Node:
    return _prelu(call, input=input, weight=_bound(call, weight, 0.0))


def _onnx_hard_sigmoid(
    call: Call, *, input: Operand, alpha: float = 0.2, beta: float = 0.5
) -> Node:
    # PyTorch's slope of one sixth has no short float32 form: it is written as 0.16666667.
    slope = 1.0 / 6.0 if np.float32(alpha) == np.float32(1.0 / 6.0) else alpha
    return _node(call, input, Clip(0.0, 1.0), slope, beta)


def _onnx_selu(
    call: Call, *, input: Operand, alpha: float = 1.67326319217681884765625, gamma: float = 1.050701
) -> Node:
    return _curve(call, input, "elu", alpha, gamma, 1.0)


def _onnx_threshold(call: Call, *, input: Operand, alpha: float = 1.0) -> Node:
    return _threshold(call, input=input, threshold=alpha, value=0.0)


def _onnx_shrink(call: Call, *, input: Operand, bias: float = 0.0, lambd: float = 0.5) -> Node:
    if bias not in (0, lambd):
        raise call.refuse(
            "a shrinkage is hard or soft", f"bias {bias}, lambd {lambd}", "0 or lambd", "Use one."
        )
    return _curve(call, input, "softshrink" if bias else "hardshrink", lambd)


def _rule(
    build: Any,
    module: str,
    attributes: tuple[str, ...],
    function: str,
    *more: str,
    at: bool = True,
    onnx: Mapping[str, tuple[str, ...]] | None = None,
) -> LayerRule:
    """A plain function of torch.nn.functional and of its module; at: with an in-place twin."""
    names = (function, f"{function}_") if at else (function,)
    given = ("input", *attributes, *more)
    return LayerRule(
        build=build,
        modules={f"torch.nn.{module}": attributes},
        functions={f"torch.nn.functional.{name}": given for name in names},
        # Whatever has an in-place form has one in ATen.
        aten=dict.fromkeys((function, f"{function}_"), ("input", *attributes, "*more")),
        onnx=onnx or {},
    )


def _without_parameters(
    name: str,
    *keys: str,
    methods: tuple[str, ...] = (),
    aten: tuple[str, ...] = (),
    onnx: tuple[str, ...] = (),
) -> LayerRule:
    """A curve without parameters; keys: full names of modules (in capitals) and functions."""

    def build(call: Call, *, input: Operand, inplace: bool = False) -> Node:
        return _curve(call, input, name)

    modules = [key for key in keys if key.rpartition(".")[2][0].isupper()]
    return LayerRule(
        build=build,
        modules=dict.fromkeys(modules, ()),
        functions={key: ("input", "inplace") for key in keys if key not in modules},
        methods=dict.fromkeys(methods, ("input",)),
        aten=dict.fromkeys(aten, ("input",)),
        onnx=dict.fromkeys(onnx, ("input",)),
    )


RELU = LayerRule(
    build=_relu,
    node=Activate,
    role="activation",
    part=lambda node, channels: {"activation": node.activation.part(channels)},
    modules={"torch.nn.ReLU": ("inplace",)},
    functions={
        "torch.nn.functional.relu": ("input", "inplace"),
        "torch.nn.functional.relu_": ("input",),
        "torch.relu": ("input",),
        "torch.relu_": ("input",),
    },
    methods={"relu": ("input",), "relu_": ("input",)},
    aten={"relu": ("input",), "relu_": ("input",)},
    onnx={"Relu": ("input",)},
)
_BOUNDS = ("input", "min", "max")
CLAMP = LayerRule(
    build=_clip,
    functions={"torch.clamp": _BOUNDS, "torch.clamp_": _BOUNDS, "torch.clip": _BOUNDS},
    methods={"clamp": _BOUNDS, "clamp_": _BOUNDS, "clip": _BOUNDS, "clip_": _BOUNDS},
    aten=dict.fromkeys(("clamp", "clamp_", "clip", "clip_"), _BOUNDS),
    onnx={"Clip": _BOUNDS},
)
CLAMP_MIN = LayerRule(
    build=_at_least,
    functions={"torch.clamp_min": _BOUNDS[:2], "torch.clamp_min_": _BOUNDS[:2]},
    methods={"clamp_min": _BOUNDS[:2], "clamp_min_": _BOUNDS[:2]},
    aten={"clamp_min": _BOUNDS[:2], "clamp_min_": _BOUNDS[:2]},
)
CLAMP_MAX = LayerRule(
    build=_at_most,
    functions={"torch.clamp_max": ("input", "max"), "torch.clamp_max_": ("input", "max")},
    methods={"clamp_max": ("input", "max"), "clamp_max_": ("input", "max")},
    aten={"clamp_max": ("input", "max"), "clamp_max_": ("input", "max")},
)
RELU6 = LayerRule(
    build=_relu6,
    modules={"torch.nn.ReLU6": ("inplace",)},
    functions={"torch.nn.functional.relu6": ("input", "inplace")},
    aten={"relu6": ("input",), "relu6_": ("input",)},
)
HARDTANH = _rule(_hardtanh, "Hardtanh", ("min_val", "max_val"), "hardtanh", "inplace")
HARD_SIGMOID = _rule(_hard_sigmoid, "Hardsigmoid", (), "hardsigmoid", "inplace", at=False)
LEAKY_RELU = _rule(
    *(_leaky_relu, "LeakyReLU", ("negative_slope",), "leaky_relu", "inplace"),
    onnx={"LeakyRelu": ("input", "alpha=negative_slope")},
)
PRELU = LayerRule(
    build=_prelu,
    modules={"torch.nn.PReLU": ("weight",)},
    functions={
        "torch.nn.functional.prelu": ("input", "weight"),
        "torch.prelu": ("input", "weight"),
    },
    methods={"prelu": ("input", "weight")},
    aten={"prelu": ("input", "weight"), "_prelu_kernel": ("input", "weight")},
)
RRELU = _rule(_rrelu, "RReLU", ("lower", "upper"), "rrelu", "training", "inplace")
SOFTPLUS = _rule(
    _softplus,
    "Softplus",
    ("beta", "threshold"),
    "softplus",
    at=False,
    onnx={"Softplus": ("input",)},
)
ELU = dataclasses.replace(
    _rule(_elu, "ELU", ("alpha",), "elu", "inplace", onnx={"Elu": ("input",)}), aten={}
)
EXPORTED_ELU = LayerRule(
    build=_exported_elu,
    aten=dict.fromkeys(("elu", "elu_"), ("input", "alpha", "scale", "input_scale")),
)
CELU = _rule(_celu, "CELU", ("alpha",), "celu", "inplace", at=False, onnx={"Celu": ("input",)})
SELU = _rule(_selu, "SELU", (), "selu", "inplace", at=False)
GELU = _rule(_gelu, "GELU", ("approximate",), "gelu", at=False, onnx={"Gelu": ("input",)})
THRESHOLD = _rule(_threshold, "Threshold", ("threshold", "value"), "threshold", "inplace")
SOFT_SHRINK = _rule(_soft_shrink, "Softshrink", ("lambd",), "softshrink", at=False)
HARD_SHRINK = _rule(_hard_shrink, "Hardshrink", ("lambd",), "hardshrink", at=False)
POWER = LayerRule(
    build=_power,
    functions={"torch.pow": ("input", "exponent"), "operator.pow": ("input", "exponent")},
    methods={"pow": ("input", "exponent")},
    aten={"pow": ("input", "exponent")},
    onnx={"Pow": ("input", "exponent")},
)
_F = "torch.nn.functional"
SIGMOID = _without_parameters(
    *("sigmoid", "torch.nn.Sigmoid", "torch.sigmoid", "torch.sigmoid_", "torch.special.expit"),
    methods=("sigmoid", "sigmoid_"),
    aten=("sigmoid", "sigmoid_", "special_expit"),
    onnx=("Sigmoid",),
)
TANH = _without_parameters(
    *("tanh", "torch.nn.Tanh", "torch.tanh", "torch.tanh_"),
    methods=("tanh", "tanh_"),
    aten=("tanh", "tanh_"),
    onnx=("Tanh",),
)
LOG_SIGMOID = _without_parameters(
    "log_sigmoid", "torch.nn.LogSigmoid", f"{_F}.logsigmoid", aten=("log_sigmoid",)
)
SOFTSIGN = _without_parameters(
    "softsign", "torch.nn.Softsign", f"{_F}.softsign", onnx=("Softsign",)
)
TANHSHRINK = _without_parameters("tanhshrink", "torch.nn.Tanhshrink", f"{_F}.tanhshrink")
HARD_SWISH = _without_parameters(
    "hard_swish",
    "torch.nn.Hardswish",
    f"{_F}.hardswish",
    aten=("hardswish", "hardswish_"),
    onnx=("HardSwish",),
)
SILU = _without_parameters("silu", "torch.nn.SiLU", f"{_F}.silu", aten=("silu", "silu_"))
MISH = _without_parameters(
    "mish", "torch.nn.Mish", f"{_F}.mish", aten=("mish", "mish_"), onnx=("Mish",)
)
ABSOLUTE = _without_parameters(
    *("abs", "torch.abs", "torch.abs_", "torch.absolute", "operator.abs"),
    methods=("abs", "abs_", "absolute"),
    aten=("abs", "abs_", "absolute"),
    onnx=("Abs",),
)
SQUARE = _without_parameters(
    "square", "torch.square", methods=("square", "square_"), aten=("square", "square_")
)
_SPIKING = ("IF", "SignedIF", "MultiThreshold")
ONNX_ACTIVATIONS = (
    LayerRule(
        build=_qcfs, modules={"lapilli.compiler.training.qcfs.QCFS": ("threshold", "levels")}
    ),
    LayerRule(
        build=_spiking,
        modules=dict.fromkeys(
            (f"lapilli.compiler.training.spiking_layers.{n}" for n in _SPIKING),
            ("threshold", "dynamics", "analog"),
        ),
    ),
    LayerRule(build=_onnx_prelu, onnx={"PRelu": ("input", "weight")}),
    LayerRule(build=_onnx_hard_sigmoid, onnx={"HardSigmoid": ("input",)}),
    LayerRule(build=_onnx_selu, onnx={"Selu": ("input",)}),
    LayerRule(build=_onnx_threshold, onnx={"ThresholdedRelu": ("input",)}),
    LayerRule(build=_onnx_shrink, onnx={"Shrink": ("input",)}),
)

ACTIVATIONS: tuple[LayerRule, ...] = (
    *(RELU, CLAMP, CLAMP_MIN, CLAMP_MAX, RELU6, HARDTANH, HARD_SIGMOID, LEAKY_RELU, PRELU, RRELU),
    *(SOFTPLUS, ELU, EXPORTED_ELU, CELU, SELU, GELU, THRESHOLD, SOFT_SHRINK, HARD_SHRINK, POWER),
    *(SIGMOID, TANH, LOG_SIGMOID, SOFTSIGN, TANHSHRINK, HARD_SWISH, SILU, MISH, ABSOLUTE, SQUARE),
    *ONNX_ACTIVATIONS,
)
