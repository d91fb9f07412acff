"""What to do instead of an operator that has no lowering: the remedies of refusals, by name."""

from __future__ import annotations

from collections.abc import Mapping

_RELU = "Train the network with ReLU in its place."
_POOL = "Use average pooling of the same window, or a strided convolution, and fine-tune."
_LAST = "Leave it out and apply it to the outputs; for a classifier the largest logit is the same."
_NORM = "Use BatchNorm: in evaluation its statistics are constants, so it folds into the weights."
_CLIP = "Use relu: thresholds saturate by themselves at the calibrated maximum."
_GATE = "A product of two activities has no spiking form here: remove the gate or the attention."
_SIZE = "Keep the resolution, or resize with nearest or bilinear interpolation."
_DATA = "Python code and numbers must not depend on the values of tensors, only on their shapes."
_TYPE = "Compute in float32 throughout: Lapilli does the quantisation."
_WRAPPED = "Pass the network inside: model.module."
_PARAMETRISED = "Call torch.nn.utils.parametrize.remove_parametrizations on the layer first."
_RANDOM = "Switch it off in evaluation: what is random cannot be compiled."

_REMEDIES: dict[str, tuple[str, ...]] = {
    _RELU: (
        *("elu", "celu", "selu", "gelu", "silu", "mish", "leaky_relu", "leakyrelu", "prelu"),
        *("rrelu", "softplus", "hardswish", "hardsigmoid", "tanh", "hardtanh", "softsign", "abs"),
        *("relu6", "threshold", "glu", "logsigmoid", "tanhshrink", "softshrink", "hardshrink"),
    ),
    _POOL: (
        *("maxpool1d", "maxpool2d", "max_pool1d", "max_pool2d", "max_pool2d_with_indices"),
        *("adaptivemaxpool2d", "adaptive_max_pool2d", "amax", "lppool2d", "fractionalmaxpool2d"),
    ),
    _LAST: ("softmax", "softmax2d", "log_softmax", "logsoftmax", "sigmoid", "argmax", "topk"),
    _NORM: (
        *("layernorm", "layer_norm", "groupnorm", "group_norm", "instancenorm2d"),
        *("instance_norm", "rmsnorm", "localresponsenorm", "local_response_norm", "normalize"),
    ),
    _CLIP: ("clamp", "clamp_", "clip", "clamp_min", "clamp_max", "maximum", "minimum"),
    _GATE: (
        *("matmul", "bmm", "einsum", "multiheadattention", "scaled_dot_product_attention"),
        *("bilinear", "pow", "square", "imatmul", "ipow", "baddbmm"),
    ),
    _SIZE: ("grid_sample", "affine_grid"),
    _DATA: ("item", "tolist", "numpy", "bool", "is_contiguous", "nonzero", "where"),
    _TYPE: ("half", "double", "bfloat16", "int", "long", "quantize", "type", "type_as"),
    _WRAPPED: ("dataparallel", "distributeddataparallel"),
    _PARAMETRISED: ("parametrizedconv2d", "parametrizedlinear"),
    _RANDOM: ("bernoulli", "rand_like", "randn_like"),
}
REMEDIES: Mapping[str, str] = {
    name: remedy for remedy, names in _REMEDIES.items() for name in names
}
"""Name of an operator in lower case -> what its user can do."""

GENERAL = "Write it with supported operators, or add a rule for it to lapilli.compiler.layers."


def remedy(called: str) -> str:
    """What to do instead of calling `called`."""
    return REMEDIES.get(called.lower(), GENERAL)
