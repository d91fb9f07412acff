"""ONNX files: operators beyond those of the common network, and files nobody should trust."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import captured_network
import numpy as np
import numpy.typing as npt
import pytest
import torch

from lapilli.compiler import frontend
from lapilli.compiler.errors import CaptureError, InputError, LapilliError, UnsupportedOperatorError
from lapilli.compiler.execute import FloatExecutor
from lapilli.compiler.layers import TABLE
from lapilli.compiler.outputs import leaves
from lapilli.compiler.passes.legalise import legalise

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

GOLDEN = captured_network.INPUTS / "every_input.onnx"
Array = npt.NDArray[Any]
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(6, 4, 6, 5)).astype(np.float32)


def floats(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).uniform(-0.7, 0.9, shape).astype(np.float32)


def whole(*values: int) -> Array:
    return np.array(values, np.int64)


def model(
    nodes: Sequence[Any],
    constants: dict[str, Array],
    *,
    opset: int = 17,
    batch: int | str = "N",
    shape: tuple[int, ...] = (4, 6, 5),
    outputs: Sequence[str] = ("y",),
) -> Any:
    """A model from nodes that lead from x to the outputs."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made)  # the checker asks for ranks of outputs


def one(kind: str, *operands: Array | None, opset: int = 17, **attributes: Any) -> Any:
    """A model of one node, its other operands constant, None where one is left out."""
    names = [f"c{i}" if value is not None else "" for i, value in enumerate(operands)]
    constants = {n: v for n, v in zip(names, operands, strict=True) if v is not None}
    node = helper.make_node(kind, ["x", *names], ["y"], name=f"my_{kind}", **attributes)
    return model([node], constants, opset=opset)


def network(made: Any, folder: Path) -> frontend.Network:
    path = folder / "model.onnx"
    onnx.save(made, str(path))
    return frontend.network_file(path)


def assert_same(made: Any, folder: Path, x: Array = X) -> Any:
    """The capture computes what the library's reference computes; the graph."""
    net = network(made, folder)
    graph = net.capture(x)
    found = FloatExecutor(legalise(graph), torch.device("cpu")).run(torch.tensor(x))
    wanted = [tensor for _, tensor in leaves(net.run(torch.tensor(x)))]
    populations = legalise(graph).outputs
    assert len(wanted) == len(graph.returned)
    for output, theirs in zip(graph.returned, wanted, strict=True):
        ours = found[populations[output.readout]].reshape(theirs.shape)
        assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))
    return graph


CASES: dict[str, Any] = {
    "conv, uneven padding": one("Conv", floats(3, 4, 3, 2), floats(3), pads=[1, 0, 2, 1]),
    "conv, same upper": one("Conv", floats(3, 4, 4, 3), auto_pad="SAME_UPPER", strides=[2, 1]),
    "conv, same lower": one("Conv", floats(4, 2, 2, 2), auto_pad="SAME_LOWER", group=2),
    "conv, valid, dilated": one("Conv", floats(2, 4, 2, 2), auto_pad="VALID", dilations=[2, 3]),
    "transposed": one("ConvTranspose", floats(4, 3, 3, 3), strides=[2, 2], pads=[1, 0, 0, 1]),
    "transposed, groups": one("ConvTranspose", floats(4, 2, 2, 3), floats(4), group=2),
    "transposed, shape": one(
        "ConvTranspose", floats(4, 2, 3, 3), strides=[2, 2], output_shape=[12, 10]
    ),
    "gemm": model(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0),
        ],
        {"w": floats(7, 120), "b": floats(7)},
    ),
    "gemm, not transposed, one bias": model(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
        ],
        {"w": floats(120, 7), "b": floats(1, 7)},
    ),
    "batch norm": one("BatchNormalization", *(floats(4) + 1 for _ in range(4)), epsilon=0.01),
    "batch norm, opset 11": one(
        "BatchNormalization", *(floats(4) + 1 for _ in range(4)), opset=11, momentum=0.8
    ),
    "clip, attributes are inputs": one("Clip", np.float32(-0.2), np.float32(0.7)),
    "clip, no lower bound": one("Clip", None, np.float32(0.7)),
    "leaky": one("LeakyRelu", alpha=0.2),
    "prelu per channel": one("PRelu", np.abs(floats(4, 1, 1))),
    "hard sigmoid": one("HardSigmoid", alpha=0.3, beta=0.4),
    "hard swish": one("HardSwish"),
    "elu": one("Elu", alpha=0.7),
    "selu": one("Selu"),
    "celu": one("Celu", alpha=0.7),
    "softplus": one("Softplus"),
    "thresholded": one("ThresholdedRelu", alpha=0.3),
    "shrink": one("Shrink", bias=0.3, lambd=0.3),
    "average pool": one("AveragePool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "average pool with padding": one(
        "AveragePool", kernel_shape=[3, 2], pads=[1, 1, 0, 0], count_include_pad=1
    ),
    "average pool, same": one("AveragePool", kernel_shape=[3, 3], auto_pad="SAME_LOWER"),
    "max pool": one("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "max pool, ceil": one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "global average": one("GlobalAveragePool"),
    "global max": one("GlobalMaxPool"),
    "mean, attribute": one("ReduceMean", axes=[-1, 2], keepdims=0),
    "mean, input": one("ReduceMean", whole(2, 3), opset=18),
    "max, attribute": one("ReduceMax", axes=[-1, 2], keepdims=0),
    "max, no axes and no operation": one("ReduceMax", whole(), noop_with_empty_axes=1, opset=18),
    "sum": one("ReduceSum", whole(1), keepdims=0),
    "pad": one("Pad", whole(0, 1, 0, 2, 0, 0, -1, 1)),
    "pad axes": one("Pad", whole(1, 2), None, whole(3), opset=18),
    "slice": one("Slice", whole(1, 4), whole(3, -100), whole(1, 3), whole(1, -2)),
    "gather one": one("Gather", np.int64(-1), axis=1),
    "gather some": one("Gather", whole(3, 0, 1), axis=2),
    "transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "depth to space": one("DepthToSpace", blocksize=2),
    "depth to space, CRD": one("DepthToSpace", blocksize=2, mode="CRD"),
    "space to depth": model(
        [
            helper.make_node("Pad", ["x", "p"], ["f"]),
            helper.make_node("SpaceToDepth", ["f"], ["y"], blocksize=2),
        ],
        {"p": whole(0, 0, 0, 0, 0, 0, 0, 1)},
    ),
    "resize, nearest": one(
        *("Resize", None, np.array([1, 1, 2, 2], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "resize, nearest, half pixel": one(
        *("Resize", None, None, whole(9, 8)), mode="nearest", axes=[2, 3], opset=18
    ),
    "resize, linear": one(
        *("Resize", None, None, whole(9, 12)), mode="linear", axes=[2, 3], opset=18
    ),
    "resize, corners": one(
        *("Resize", None, None, whole(4, 11)),
        axes=[2, 3],
        opset=18,
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "dropout": one("Dropout", np.float32(0.4)),
    "constants": one("Mul", floats(1, 4, 1, 1)),
    "divided": one("Div", np.float32(3)),
    "matmul": one("MatMul", floats(5, 3)),
    "split": model(
        [
            helper.make_node("Split", ["x", "s"], ["a", "b"], axis=1),
            helper.make_node("Concat", ["b", "a", "b"], ["y"], axis=1),
        ],
        {"s": whole(1, 3)},
    ),
    "computed shape": model(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
            helper.make_node("Unsqueeze", ["n", "zeros"], ["n1"]),
            helper.make_node("Concat", ["n1", "rest"], ["wanted"], axis=0),
            helper.make_node("Reshape", ["x", "wanted"], ["y"]),
        ],
        {"zero": np.int64(0), "zeros": whole(0), "rest": whole(-1)},
    ),
    "constant node, unsqueezed": model(
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(floats(5))),
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Add", ["c", "r"], ["y"]),
        ],
        {},
    ),
    "two outputs, one of them a softmax": model(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Softmax", ["f"], ["p"], axis=1),
        ],
        {},
        outputs=("r", "f"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_compute_what_the_reference_computes(name: str, tmp_path: Path) -> None:
    assert_same(CASES[name], tmp_path)


def test_softmax_at_the_end_is_a_head(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Softmax", ["f"], ["p"], axis=1),
    ]
    graph = network(model(nodes, {}, outputs=("p",)), tmp_path).capture(X)
    assert [(output.name, str(output.head)) for output in graph.returned] == [
        ("output", "softmax(0)")
    ]


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_any_batch_is_the_same_graph_and_runs(batch: int | str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Flatten", ["r"], ["y"])]
    net = network(model(nodes, {}, batch=batch), tmp_path)
    assert [(node.name, node.shape) for node in net.capture(X)] == [
        ("input", (4, 6, 5)),
        ("r", (4, 6, 5)),
        ("y", (120,)),
    ]
    assert torch.equal(net.run(torch.tensor(X)), torch.tensor(X).relu().flatten(1))


def test_names_of_other_exporters_are_kept(tmp_path: Path) -> None:
    made = one("Relu")
    made.graph.node[0].name = "block/1/Activation:0"
    assert [n.name for n in network(made, tmp_path).capture(X)][1] == "block.1.Activation:0"


def test_modules_of_the_newer_exporter_are_read_from_its_metadata(tmp_path: Path) -> None:
    made = one("Relu")
    node = made.graph.node[0]
    for key, value in {
        "name_scopes": "['', 'layer1', 'layer1.0.relu', 'relu']",
        "class_hierarchy": "['a.Net', 'torch.nn.modules.container.Sequential', "
        "'torch.nn.modules.activation.ReLU', 'aten.relu.default']",
        "stack_trace": 'File "net.py", line 7, in forward\n    return self.relu(x)',
    }.items():
        node.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=value)
    found = list(network(made, tmp_path).capture(X))[1]
    assert found.name == "layer1.0.relu"
    assert found.where.startswith("net.py:7 in forward: return self.relu(x) (node 'my_Relu'")


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (one("Cosh"), "Cosh"),
        (one("LRN", size=3), "LRN"),
        (one("Resize", None, None, whole(9, 8), mode="cubic", axes=[2, 3], opset=18), "cubic"),
        (one("InstanceNormalization", floats(4), floats(4)), "InstanceNormalization"),
        (one("Transpose", perm=[1, 0, 2, 3]), "for 5 images"),
    ],
)
def test_what_has_no_lowering_is_refused_by_the_nodes_name(
    made: Any, found: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedOperatorError) as refused:
        network(made, tmp_path).capture(X)
    assert found in f"{refused.value.found} {refused.value.where}"
    kind = made.graph.node[0].op_type
    assert f"node 'my_{kind}' of {tmp_path / 'model.onnx'}" in refused.value.where


def test_loops_and_foreign_operators_are_not_executed(tmp_path: Path) -> None:
    foreign = one("Relu")
    foreign.graph.node[0].domain = "com.example"
    foreign.opset_import.add(domain="com.example", version=1)
    with pytest.raises(UnsupportedOperatorError, match=r"com\.example\.Relu"):
        network(foreign, tmp_path).capture(X)
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, [])],
    )
    nodes = [
        helper.make_node("Loop", ["", "true"], [], body=body),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    with pytest.raises(LapilliError):
        network(model(nodes, {"true": np.array(True)}), tmp_path).capture(X)


def test_huge_constants_are_refused_before_they_are_made(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    with pytest.raises(CaptureError) as refused:
        network(model(nodes, {"s": whole(10**6, 10**6)}), tmp_path).capture(X)
    assert "(1000000, 1000000)" in refused.value.found


def external(path: Path, location: str, **entries: int) -> None:
    """A model whose weights lie in another file."""
    made = one("Add", floats(4, 6, 5))
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(made.SerializeToString())


def test_weights_beside_the_file_are_read_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "model.onnx"
    (folder / "weights.bin").write_bytes(floats(4, 6, 5).tobytes())
    external(path, "weights.bin")
    assert len(frontend.network_file(path).capture(X).nodes) == 2
    (tmp_path / "secret").write_bytes(bytes(480))
    (folder / "link").symlink_to(tmp_path / "secret")
    for location in ("../secret", str(tmp_path / "secret"), "link", "none.bin", "", "."):
        external(path, location)
        with pytest.raises(InputError) as refused:
            frontend.network_file(path)
        assert refused.value.where == str(path)
    for entries in ({"offset": 400, "length": 480}, {"offset": -8}, {"length": -1}):
        external(path, "weights.bin", **entries)
        with pytest.raises(InputError):
            frontend.network_file(path)


def test_damaged_files_give_one_clear_error(tmp_path: Path) -> None:
    data, random, seen = GOLDEN.read_bytes(), np.random.default_rng(0), []
    path = tmp_path / "a.onnx"
    for trial in range(80):
        content = bytearray(data)
        if trial % 2:
            content = content[: int(random.integers(len(content)))]
        else:
            for place in random.integers(len(content), size=4):
                content[place] = int(random.integers(256))
        path.write_bytes(bytes(content))
        try:
            frontend.network_file(path).capture(captured_network.samples())
        except LapilliError as error:
            seen.append(type(error).__name__)
            assert str(error)
        else:
            seen.append("fine")
    assert seen.count("InputError") > 20


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda m: m.opset_import[0].__setattr__("version", 9), "opset 9"),
        (lambda m: m.opset_import[0].__setattr__("version", 999), "999"),
        (lambda m: m.graph.input.add().CopyFrom(
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])), "x, z"),
        (lambda m: m.graph.initializer[0].__setattr__(
            "raw_data", np.full((4, 1, 1), np.nan, "<f4").tobytes()), "NaN"),
    ],
)  # fmt: skip
def test_other_models_are_refused(change: Any, found: str, tmp_path: Path) -> None:
    made = one("Add", floats(4, 1, 1))
    change(made)
    path = tmp_path / "a.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(InputError) as refused:
        frontend.network_file(path).capture(X)
    assert found in refused.value.found


def test_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        network(one("Relu"), tmp_path).capture(X[:, :3])
    assert refused.value.found == "images of shape (3, 6, 5)"


def test_every_row_has_a_form_in_programs_or_is_one() -> None:
    """A layer that only modules can name would be lost in a .pt2 file."""
    lacking = {
        next(iter({**rule.modules, **rule.functions, **rule.methods}))
        for rule in TABLE
        if not rule.aten and (rule.modules or rule.functions or rule.methods)
    }
    assert lacking == set(WITHOUT_ATEN)


WITHOUT_ATEN = {
    "lapilli.compiler.training.qcfs.QCFS": "a layer of training, which is compiled as a module",
    "lapilli.compiler.training.spiking_layers.IF": "a layer of training, as QCFS is",
    "torch.nn.ELU": "EXPORTED_ELU has its operator, with two more parameters",
    "torch.nn.Softsign": "exported as a division by an activity, which is refused",
    "torch.nn.Tanhshrink": "exported as x - tanh(x)",
    "operator.getitem": "SLICE_ALONG, SELECT and GATHER have its operators",
    "torch.nn.ConstantPad1d": "PAD and CONSTANT_PAD have its operators",
    "torch.nn.CircularPad1d": "PAD has its operator",
    "torch.nn.Upsample": "NEAREST, BILINEAR and their like have its operators",
    "torchvision.ops.stochastic_depth.stochastic_depth": "in evaluation it exports nothing",
}
