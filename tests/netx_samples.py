"""Networks of every kind that the `.net` import knows, each with the inputs it is compared on."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import netx_files as nf
import numpy as np

STEPS = 24
Sample = tuple[list[nf.Layer], np.ndarray]
IN, HIDDEN, OUT = 12, 9, 5


def trains(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """One spike train: silent, sparse, at random, always on, and at random again."""
    rates = np.repeat([0.0, 0.1, 0.5, 1.0, 0.3], (4, 6, 6, 3, STEPS - 19))
    chances = rates.reshape(-1, *(1,) * len(shape))
    return (rng.random((1, STEPS, *shape)) < chances).astype(np.int64)


def _two(rng: np.random.Generator, first: nf.Layer) -> Sample:
    return [first, nf.dense(nf.mixed(rng, OUT, HIDDEN), nf.cuba(30))], trains(rng, IN)


def _conv(rng: np.random.Generator) -> Sample:
    shape = (2, 5, 7)
    first = nf.conv(
        nf.mixed(rng, 3, 2, 3, 2, top=300), shape, nf.cuba(200), (2, 1), (1, 0),
        bias=np.array([3, -2, 40]),
    )  # fmt: skip
    size = int(np.prod(first["shape"]))
    second = nf.dense(nf.mixed(rng, OUT, size), nf.cuba(60), bias=rng.integers(-9, 9, OUT))
    return [nf.source(shape), first, nf.flatten((size,)), second], trains(rng, *shape)


def _groups(rng: np.random.Generator) -> Sample:
    shape = (4, 6, 5)
    first = nf.conv(
        nf.mixed(rng, 6, 2, 2, 3), shape, nf.cuba(50), dilation=(2, 1), padding=(1, 2), groups=2
    )
    inner = tuple(int(n) for n in first["shape"])
    second = nf.conv(nf.mixed(rng, 6, 1, 3, 3), inner, nf.cuba(20), groups=6)
    per_neuron = rng.integers(-20, 20, tuple(second["shape"])[::-1])
    return [nf.source(shape), first, {**second, "bias": per_neuron}], trains(rng, *shape)


def _input_lif(rng: np.random.Generator) -> Sample:
    shape = (1, 3, 4)
    given = nf.source(shape, nf.cuba(30, 4096, 1024), weight=np.float32(40), bias=np.float32(3))
    layers = [given, nf.conv(nf.mixed(rng, 2, 1, 2, 2), shape, nf.cuba(20), bias=np.array([5, -9]))]
    layers += [nf.flatten((12,)), nf.dense(nf.mixed(rng, 3, 12), nf.cuba(2**17 - 1, 4096, 0))]
    return layers, rng.integers(-40, 90, (1, STEPS, *shape))


def _delays(rng: np.random.Generator, delay: np.ndarray) -> Sample:
    return _two(rng, nf.dense(nf.mixed(rng, HIDDEN, IN), nf.cuba(50), delay=delay))


def _recurrent(rng: np.random.Generator) -> Sample:
    weight, inner = nf.mixed(rng, HIDDEN, IN), nf.mixed(rng, HIDDEN, HIDDEN)
    return _two(rng, nf.dense_rec(weight, inner, nf.cuba(90, 4096)))


def _recurrent_delays(rng: np.random.Generator) -> Sample:
    # Their sum's exponent is forgotten by netx, which is what the import must show.
    weight, inner = nf.mixed(rng, IN, IN, top=20), nf.mixed(rng, IN, IN, top=20)
    delay = rng.integers(0, 4, (IN, IN))
    first = nf.dense_rec(weight, inner, nf.cuba(400, 4096), delay=delay)
    return [first, nf.dense(nf.mixed(rng, OUT, IN))], trains(rng, IN)


def _weights(rng: np.random.Generator, low: int, high: int, peak: int) -> Sample:
    weight = rng.integers(low, high + 1, (HIDDEN, IN))
    weight[0, 0] = peak
    return _two(rng, nf.dense(weight, nf.cuba(20), bias=rng.integers(0, 60, HIDDEN)))


def _recurrent_one_sign(rng: np.random.Generator) -> Sample:
    weight = rng.integers(1, 200, (HIDDEN, IN))
    # Lava takes each matrix for one of one sign, netx did not: all weights into the layer are lost.
    inner = -weight[:, :HIDDEN] // 4
    return _two(rng, nf.dense_rec(weight, inner, nf.cuba(90, 4096), bias=np.arange(9) * 5))


def _sdnn(rng: np.random.Generator, **bias: bool) -> Sample:
    shape = (1, 5, 4)
    given = nf.source(shape, nf.sdnn(2))
    first = nf.conv(nf.mixed(rng, 2, 1, 2, 3, top=20), shape, nf.sdnn(3), padding=(1, 0))
    size = int(np.prod(first["shape"]))
    second = nf.dense(nf.mixed(rng, HIDDEN, size, top=9), nf.sdnn(1))
    last = nf.dense(nf.mixed(rng, OUT, HIDDEN, top=9), nf.sdnn(0, sigma_output=True))
    if bias:
        first = {**first, "bias": rng.integers(-9, 20, 2)}
        second = {**second, "bias": rng.integers(-9, 20, HIDDEN)}
    smooth = rng.integers(-9, 10, (1, STEPS, *shape)).cumsum(1).clip(-60, 60)
    smooth[:, STEPS // 2 : -3] = smooth[:, [STEPS // 2]]
    return [given, first, nf.flatten((size,)), second, last], smooth


def _sdnn_graded_end(rng: np.random.Generator) -> Sample:
    layers, inputs = _sdnn(rng)
    return layers[:-1], inputs


def _sdnn_into_lif(rng: np.random.Generator) -> Sample:
    weight = nf.mixed(rng, HIDDEN, IN, top=2)
    layers = [nf.source((IN,), nf.sdnn(2)), nf.dense(weight, nf.cuba(900))]
    return layers, rng.integers(-20, 20, (1, STEPS, IN))


def _no_neuron(rng: np.random.Generator) -> Sample:
    layers, inputs = _two(rng, nf.dense(nf.mixed(rng, HIDDEN, IN), nf.cuba(20)))
    del layers[1]["neuron"]
    return layers, inputs


def _wrapping(rng: np.random.Generator) -> Sample:
    # u reaches +-2**23, where Lava wraps it; a bias of 40000 wraps, too.
    weight = np.full((4, 16), 254) * np.array([1, -1, 1, -1])[:, None]
    weight[0, 0] = -256
    bias = np.array([0, 0, 40000, -40000])
    first = nf.dense(np.tile(weight, 8), nf.cuba(2**17 - 1, 0, 0), bias=bias)
    return [first, nf.dense(nf.mixed(rng, OUT, 4))], trains(rng, 128)


SAMPLES: dict[str, Callable[[np.random.Generator], Sample]] = {
    "conv": _conv,
    "groups": _groups,
    "input-lif": _input_lif,
    "delay-scalar": lambda rng: _delays(rng, np.array(3)),
    "delay-out": lambda rng: _delays(rng, rng.integers(0, 6, HIDDEN)),
    "delay-in": lambda rng: _delays(rng, rng.integers(0, 6, IN) + 0.7),
    "delay-all": lambda rng: _delays(rng, rng.integers(0, 5, (HIDDEN, IN))),
    "delay-clamped": lambda rng: _delays(rng, rng.integers(-3, 5, IN) + 70 * (np.arange(IN) == 3)),
    "recurrent": _recurrent,
    "recurrent-delays": _recurrent_delays,
    "recurrent-one-sign": _recurrent_one_sign,
    "weights-negative": lambda rng: _weights(rng, -63, -1, -64),
    "weights-minus-two": lambda rng: _weights(rng, -2, -1, -2),
    "weights-positive": lambda rng: _weights(rng, 0, 255, 255),
    "weights-large": lambda rng: _weights(rng, -400, 400, 300),
    "weights-large-positive": lambda rng: _weights(rng, 0, 9, 300),
    "weights-odd": lambda rng: _weights(rng, -255, 253, 251),
    "weights-not-positive": lambda rng: _weights(rng, -63, 0, 0),
    "weights-zero": lambda rng: _weights(rng, 0, 0, 0),
    "fractions": lambda rng: _two(rng, nf.dense(rng.uniform(-60, 60, (HIDDEN, IN)))),
    "sdnn": _sdnn,
    "sdnn-bias": lambda rng: _sdnn(rng, bias=True),
    "sdnn-graded-end": _sdnn_graded_end,
    "sdnn-into-lif": _sdnn_into_lif,
    "no-neuron": _no_neuron,
    "wrapping": _wrapping,
}
"""Name -> layers and inputs (N, steps, *shape). The seed is the name: see `sample`."""


def sample(name: str) -> Sample:
    """The network and its inputs, the same every time."""
    return SAMPLES[name](np.random.default_rng(zlib.crc32(name.encode())))
