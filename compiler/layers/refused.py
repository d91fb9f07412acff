"""What to do instead of an operator that has no lowering: the remedies of refusals, by name."""

from __future__ import annotations

from collections.abc import Mapping

_POOL = "Use average or max pooling of the same window, or a strided convolution, and fine-tune."
_LAST = (
    "At the very end of an output, where nothing else reads it, it is taken off by itself; "
    "elsewhere leave it out and apply it to the outputs: the largest logit is the same."
)
_HOST = (
    "What it returns depends on values, not on shapes alone: compile the network up to its heads, "
    "return scores and boxes, and select and decode them on the host."
)
_NORM = (
    "Its statistics depend on the image, so it is not linear: use BatchNorm, which in evaluation "
    "folds into the weights."
)
_LARGER = "Write a + relu(b - a) for the larger, a - relu(a - b) for the smaller of two tensors."
_GATE = (
    "Activities are multiplied element by element only (a * b): a matrix product of two of them, "
    "as in attention, has no spiking form here."
)
_GLU = "Write it as it is defined: split the channels, and multiply by the sigmoid of one half."
_THREE = "Networks of images and of signals compile: 1-D and 2-D layers, nothing in 3-D."
_RECURRENT = (
    "Layers that keep a state of their own from frame to frame are not compiled: use a recurrent "
    "layer's convolutional or fully connected counterpart on a window of frames."
)
_LOOKED_UP = "Look it up before: compile the network from the embedded values on."
_WINDOWS = "Write it as a convolution with fixed weights, or as pooling."
_CURVE = (
    "Use an activation that `lapilli operators` lists, or add the curve to "
    "lapilli.compiler.activations: any function of one variable becomes a ladder."
)
_PARTS = (
    "Parts of a tensor are not written to: join the result from its parts with torch.cat or "
    "torch.stack, or multiply by a constant mask and add."
)
_SIZE = "Keep the resolution, or resize with nearest or bilinear interpolation."
_DATA = "Python code and numbers must not depend on the values of tensors, only on their shapes."
_TYPE = "Compute in float32 throughout: Lapilli does the quantisation."
_WRAPPED = "Pass the network inside: model.module."
_PARAMETRISED = "Call torch.nn.utils.parametrize.remove_parametrizations on the layer first."
_RANDOM = "Switch it off in evaluation: what is random cannot be compiled."

_REMEDIES: dict[str, tuple[str, ...]] = {
    _POOL: (
        *("lppool1d", "lppool2d", "lp_pool1d", "lp_pool2d", "fractionalmaxpool2d"),
        *("maxunpool2d", "max_unpool2d", "lppool", "globallppool", "maxunpool"),
    ),
    _LAST: (
        *("softmax", "softmax2d", "log_softmax", "logsoftmax", "softmin", "argmax"),
        *("topk", "max"),
    ),
    _NORM: (
        *("layernorm", "layer_norm", "groupnorm", "group_norm", "rmsnorm", "rms_norm"),
        *("localresponsenorm", "local_response_norm", "crossmaplrn2d", "normalize"),
        *("layernormalization", "groupnormalization", "rmsnormalization", "lrn"),
        *("meanvariancenormalization", "lpnormalization", "native_layer_norm", "native_group_norm"),
    ),
    _LARGER: ("maximum", "minimum", "fmax", "fmin"),
    _GLU: ("glu",),
    _GATE: (
        *("bmm", "multiheadattention", "scaled_dot_product_attention"),
        *("transformerencoderlayer", "transformerencoder", "transformer"),
        *("bilinear", "imatmul", "baddbmm"),
    ),
    _THREE: (
        *("conv3d", "convtranspose3d", "conv_transpose3d", "batchnorm3d", "avgpool3d"),
        *("avg_pool3d", "maxpool3d", "max_pool3d", "adaptiveavgpool3d", "adaptive_avg_pool3d"),
        *("adaptivemaxpool3d", "dropout3d", "reflectionpad3d", "replicationpad3d", "zeropad3d"),
        "constantpad3d",
    ),
    _RECURRENT: ("lstm", "gru", "rnn", "lstmcell", "grucell", "rnncell"),
    _LOOKED_UP: ("embedding", "embeddingbag", "one_hot"),
    _WINDOWS: ("unfold", "fold", "im2col", "col2im"),
    _CURVE: (
        *("exp", "log", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "sign", "ceil"),
        *("round", "erf", "logit"),
    ),
    _PARTS: (
        *("setitem", "zeros_like", "ones_like", "empty_like", "full_like", "fill", "copy"),
        *("fill_", "zero_", "copy_", "index_fill", "index_fill_", "index_copy", "index_copy_"),
        *("index_add", "index_add_", "index_put", "index_put_", "scatter", "scatter_"),
        *("scatter_add", "scatter_add_", "slice_scatter", "select_scatter", "masked_scatter"),
        *("scatternd", "scatterelements"),
    ),
    _SIZE: ("grid_sample", "grid_sampler", "gridsample", "affine_grid", "affinegrid"),
    _DATA: ("item", "tolist", "numpy", "bool", "is_contiguous"),
    _HOST: (
        *("nms", "batched_nms", "_batched_nms_vanilla", "_batched_nms_coordinate_trick"),
        *("remove_small_boxes", "clip_boxes_to_image", "roi_align", "roi_pool", "box_convert"),
        *("nonmaxsuppression", "roialign"),
        *("nonzero", "where", "masked_select", "unique", "sort", "argsort", "bincount"),
        *("gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "isnan"),
    ),
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
