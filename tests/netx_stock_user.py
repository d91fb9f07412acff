"""A user of lava-dl who got a `.net` file from `lapilli export` and has nothing else of Lapilli.

    python netx_stock_user.py FOLDER

runs every FOLDER/NAME.net on FOLDER/NAME.npy (N, *shape) or, stepwise, (N, steps, *shape), images
one after the other without a pause, and writes FOLDER/NAME.npz: "spikes k" (N, steps, ...) of layer
k, flattened in C, H, W order, and "readouts" (N, ...). Importing this module imports no Lava.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Spikes of every layer and the readouts, by what the file says of itself."""
    import h5py
    from lava.lib.dl.netx import hdf5
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Stimulus

    with h5py.File(path) as file:
        told = {name: file["lapilli"][name][()] for name in file["lapilli"]}
    steps = int(told["reset_interval"])
    net = hdf5.Network(
        str(path),
        reset_interval=steps,
        reset_offset=int(told["reset_offset"]),
        input_message_bits=int(told["input_message_bits"]),
    )
    sent = images if told["timing"] == b"train" else np.repeat(images[:, None], steps, axis=1)
    # (T, C, H, W) -> (W, H, C, T): Lava has the axes the other way round.
    train = sent.reshape(-1, *net.inp.shape[::-1]).transpose().astype(np.int32)
    source = Stimulus(data=np.concatenate([train, np.zeros_like(train)], axis=-1))
    source.s_out.connect(net.inp)
    total = len(images) * steps + len(net.layers)
    sinks = [Sink(shape=layer.out.shape, buffer=total) for layer in net.layers]
    for layer, sink in zip(net.layers, sinks, strict=True):
        layer.out.connect(sink.a_in)
    config = Loihi2SimCfg(select_tag="fixed_pt")
    readouts, at = [], 0
    for image in range(len(images)):
        until = int(told["read_step"]) + image * steps
        net.run(RunSteps(until - at), config)
        readouts.append(net.out_layer.neuron.v.get().astype(np.int64).transpose().reshape(-1))
        at = until
    found = {}
    for k, sink in enumerate(sinks):
        # The sink's step 0 is Lava's step 1; layer k works on the first input one step after it.
        spikes = sink.data.get()[..., k + 1 : k + 1 + len(images) * steps].astype(np.int64)
        found[f"spikes {k}"] = spikes.transpose().reshape(len(images), steps, -1)
    net.stop()
    net.net_config.f.close()
    units = np.array(readouts) / int(told["unit"])
    return {**found, "readouts": units.reshape(len(images), -1)}


def main(folder: Path) -> None:
    """Every network of a folder."""
    for path in sorted(folder.glob("*.net")):
        np.savez(path.with_suffix(".npz"), **run(path, np.load(path.with_suffix(".npy"))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
