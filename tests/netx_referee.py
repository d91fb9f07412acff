"""What stock netx makes of `.net` files: run by test_netx_import_lava.py in a process of its own.

    python netx_referee.py FOLDER

runs every FOLDER/NAME.net on FOLDER/NAME.npy (N, steps, *shape), channels first, one fresh network
per sample, and writes FOLDER/NAME.npz: the spikes of layer k as "k" (N, steps, ...), flattened in
C, H, W order, and the membranes of the last layer after the last step as "v". Where netx fails,
"error" holds its message instead. Importing this module imports no Lava.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

NO_RESET_AGAIN = 2**20
"""An interval at which netx resets LIF neurons that no run here reaches."""


def referee(path: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Spikes of every layer of netx, and the last membranes."""
    found: dict[str, list[np.ndarray]] = {}
    for sample in inputs:
        for key, values in _one(path, sample).items():
            found.setdefault(key, []).append(values)
    return {key: np.array(values) for key, values in found.items()}


def _one(path: Path, sample: np.ndarray) -> dict[str, np.ndarray]:
    from lava.lib.dl.netx import hdf5
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Stimulus

    steps = len(sample)
    given = _has_input_neuron(path)
    # A layer is reset in the very step in which the first input can reach it.
    net = hdf5.Network(str(path), reset_interval=NO_RESET_AGAIN, reset_offset=0 if given else 1)
    port = net.in_layer.neuron.a_in if given else net.inp
    data = _whc(sample) if len(port.shape) == 3 else sample.reshape(steps, -1).T
    source = Stimulus(data=data.astype(np.int32))
    source.s_out.connect(port)
    depth = len(net.layers) - given
    total = steps + depth
    sinks = []
    for layer in net.layers:
        sink = Sink(shape=layer.out.shape, buffer=total)
        layer.out.connect(sink.a_in)
        sinks.append(sink)
    net.run(RunSteps(total), Loihi2SimCfg(select_tag="fixed_pt"))
    found = {}
    for k, sink in enumerate(sinks):
        first = k + 1 - given
        spikes = sink.data.get()[..., first : first + steps].astype(np.int64)
        # (W, H, C, T) or (N, T), to T first and C, H, W order.
        found[str(k)] = spikes.transpose().reshape(steps, -1)
    last = net.out_layer.neuron
    v = last.v if hasattr(last, "v") else last.sigma
    found["v"] = v.get().astype(np.int64).transpose().reshape(-1)
    net.stop()
    net.net_config.f.close()
    return found


def _has_input_neuron(path: Path) -> bool:
    import h5py

    with h5py.File(path) as file:
        kind = np.asarray(file["layer/0/type"][()]).reshape(-1)[0]
        return kind == b"input" and "neuron" in file["layer/0"]


def _whc(sample: np.ndarray) -> np.ndarray:
    """(T, C, H, W) as (W, H, C, T)."""
    return sample.transpose()


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    for path in sorted(folder.glob("*.net")):
        try:
            found = referee(path, np.load(path.with_suffix(".npy")))
        except Exception as error:  # noqa: BLE001 - whatever netx raises is the finding
            found = {"error": np.array(f"{type(error).__name__}: {error}")}
        np.savez(path.with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
