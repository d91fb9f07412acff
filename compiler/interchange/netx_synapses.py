"""The connections of a `.net` layer: with the weights that netx runs, one for every delay."""

from __future__ import annotations

import numpy as np

from lapilli.compiler.interchange.netx_file import refuse
from lapilli.compiler.interchange.netx_layers import UNIT, Layer, Notes, Sdnn
from lapilli.compiler.interchange.netx_weights import effective, scaled_up, truncated
from lapilli.compiler.linear import Array, Conv, Dense, LinearMap, Shape, Sparse, frozen
from lapilli.compiler.netlist import Connection, Population
from lapilli.compiler.neurons import Source
from lapilli.compiler.numerics import Int64Array, smallest_integer


def check_joint(layer: Layer, before: Population) -> None:
    """Refuse a layer that does not fit the one before, or that netx could not join to it."""
    first = isinstance(before.neuron, Source)
    if layer.geometry is not None:
        _check_conv(layer, before.shape)
    elif not first and len(before.shape) != (3 if layer.flatten else 1):
        rule = "a flatten layer stands between 3-D spikes and a dense layer, and only there"
        raise refuse(layer.where, rule, f"{before.name} {before.shape}", "flatten before it")
    elif layer.weight.shape[1] != before.size:
        found = f"{layer.weight.shape[1]} inputs, {before.name} has {before.size}"
        raise refuse(f"{layer.where}/weight", "weights fit the layer before", found, "as many")
    binary = before.neuron.payload() == (0, 1)
    if layer.recurrent is not None and isinstance(layer.neuron, Sdnn) and binary:
        rule = "recurrent sigma-delta layers receive graded spikes, or netx cuts theirs to 1"
        raise refuse(layer.where, rule, f"{before.name} sends 0 or 1", "an SDNN layer before")


def _check_conv(layer: Layer, shape: Shape) -> None:
    g = layer.geometry
    assert g is not None
    outputs, per_group = layer.weight.shape[:2]
    if len(shape) != 3 or per_group * g.groups != shape[0] or outputs % g.groups:
        found = f"weight {layer.weight.shape} in {g.groups} groups on {shape}"
        raise refuse(f"{layer.where}/weight", "weights fit the layer before", found, shape)
    sizes = tuple(
        (shape[a + 1] + 2 * g.padding[a] - g.dilation[a] * (layer.weight.shape[a + 2] - 1) - 1)
        // g.stride[a]
        + 1
        for a in (0, 1)
    )
    if layer.shape != (outputs, *sizes):
        rule = "the shape follows from the layer before"
        raise refuse(f"{layer.where}/shape", rule, layer.shape, (outputs, *sizes))


def synapses(layer: Layer, before: Population, notes: Notes) -> list[Connection]:
    """The connections into a layer: from the layer before and from itself, one for every delay."""
    if layer.geometry is not None:
        g = layer.geometry
        geometry = (g.stride, g.padding, g.dilation, g.groups)
        weight, exponent = _shared_exponent(layer.weight)
        conv = Conv(frozen(weight), before.shape, layer.shape, *geometry)
        return [_connection(before.name, layer.name, conv, exponent)]
    matrices = _dense_weights(layer, notes)
    senders = [(before.name, before.shape)]
    if layer.recurrent is not None:
        senders.append((layer.name, layer.shape))
    delays = np.zeros((), np.int64) if layer.delay is None else layer.delay
    return [
        _connection(name, layer.name, _matrix_map(part, shape, layer.shape), exponent, late)
        for (name, shape), matrix in zip(senders, matrices, strict=True)
        for late in sorted({int(d) for d in np.unique(delays)})
        for part, exponent in [_shared_exponent(np.where(delays == late, matrix, 0))]
        if part.any() or (delays.size == 1 and name != layer.name)
    ]


def _dense_weights(layer: Layer, notes: Notes) -> list[Int64Array]:
    """The matrices that netx runs, and a note where they are not the file's."""
    own = [layer.weight] if layer.recurrent is None else [layer.weight, layer.recurrent]
    whole = np.hstack(own)
    if not whole.any():
        notes.append(f"{layer.name}: all weights are 0, on which netx itself fails")
        return own
    scaled = scaled_up(whole)
    columns = layer.weight.shape[1]
    stored = [scaled.weight[:, :columns], scaled.weight[:, columns:]][: len(own)]
    # netx forgets the exponent where a recurrent layer has delays.
    up = 0 if len(own) == 2 and layer.delay is not None else scaled.up
    run = []
    for key, theirs, weight in zip(("weight", "weight_rec"), own, stored, strict=False):
        found = effective(truncated(weight, scaled.bits), up)
        if found is None:
            rule = "netx runs weights that are whole; here it cuts sums, not weights"
            low, high = int(theirs.min()), int(theirs.max())
            remedy = "Add an unused input with a positive weight."
            where = f"{layer.where}/{key}"
            raise refuse(where, rule, f"{low}..{high}", "a positive weight, too", remedy)
        changed = np.argwhere(found != theirs)
        if len(changed):
            at = tuple(changed[0])
            notes.append(
                f"{layer.name}: netx runs {len(changed)} of {theirs.size} values of {key} "
                f"otherwise than the file says, {theirs[at]} as {found[at]} for example"
            )
        run.append(found)
    return run


def _connection(
    source: str, target: str, linear_map: LinearMap, exponent: int, late: int = 0
) -> Connection:
    scale = frozen(2.0 ** (exponent - UNIT))
    return Connection(source, target, linear_map, exponent, late, scale, late)


def _matrix_map(weight: Array, in_shape: Shape, out_shape: Shape) -> LinearMap:
    dense = Dense(frozen(weight), in_shape, out_shape)
    if 2 * np.count_nonzero(weight) >= weight.size:
        return dense
    return Sparse.from_matrix(dense.to_sparse(), in_shape, out_shape)


def _shared_exponent(weight: Array) -> tuple[Array, int]:
    """The weights with the power of two that all of them share taken out, and that power."""
    exponent = 0
    while weight.any() and not (weight % 2).any():
        weight, exponent = weight // 2, exponent + 1
    return smallest_integer(weight), exponent
