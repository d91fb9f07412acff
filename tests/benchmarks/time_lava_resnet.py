"""ResNet-20 on Lava: a step of our processes against the same network of stock ones, in one run.

python tests/benchmarks/time_lava_resnet.py [--steps N] [--repeats N] [--json]

Ours is what `lapilli.compile` makes of examples/03_resnet20.py (parallel, unary, L=4), with the
shared weights and images where they are, else with random ones. The stock network has the same
shapes and integer weights: lava.proc.conv.Conv, Dense and LIF; a residual sum is two connections
into one LIF, an identity shortcut, which has a weight, too, a depthwise 1x1 Conv. Both are built
and stepped alike, in turns; the fastest turn of each counts. The stock network's time does not
depend on its spikes; ours is taken when every layer works on images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in the backend's worker

import numpy as np
import numpy.typing as npt
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.conv.process import Conv as StockConv
from lava.proc.dense.process import Dense as StockDense
from lava.proc.io.source import RingBuffer as Stimulus
from lava.proc.lif.process import LIF

from lapilli.compiler import artifact
from lapilli.compiler.linear import Conv, Dense, Diagonal, LinearMap
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.schedule import schedule
from lapilli.runtime.lava import network, runner
from lapilli.runtime.lava.clock import clocks

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CIFAR10, WEIGHTS = SHARED / "cifar10.tar.xz", SHARED / "resnet20_cifar10.safetensors"
LEVELS, IMAGES = 4, 4
SPEED_UP = 10.0
Ints = npt.NDArray[np.int64]
CHANNELS = {"pypy_channel_size": 2}  # as in the backend's worker


def prepare(directory: Path) -> None:
    """Write the netlist and some inputs; in a process of its own, for torch and Lava do not mix."""
    import torch

    import lapilli
    from lapilli import data, models

    example = runpy.run_path(str(ROOT / "examples" / "03_resnet20.py"))
    torch.manual_seed(0)
    model = example["ResNet20"]().eval()
    images = np.random.default_rng(0).normal(size=(32, 3, 32, 32)).astype(np.float32)
    if CIFAR10.exists() and WEIGHTS.exists():
        models.load_weights(model, WEIGHTS)
        mean, std = (np.reshape(example[name], (3, 1, 1)) for name in ("MEAN", "STD"))
        raw = data.load(f"cifar10:{CIFAR10}", split="train", limit=len(images)).images
        images = ((raw - mean) / std).astype(np.float32)
    method = lapilli.methods.Parallel(levels=LEVELS, coding="unary")
    net = lapilli.compile(model, calibration=images, method=method)
    net.save(directory / "model.h5")
    source = net.netlist.input
    inputs = np.floor(images / source.count_scale + 0.5)
    low, high = source.neuron.payload()
    np.save(directory / "inputs.npy", np.clip(inputs, low, high).astype(np.int64))


def stock(netlist: Netlist) -> AbstractProcess:
    """The same network of stock processes; one of them."""
    rng = np.random.default_rng(0)
    sources: dict[str, Any] = {}
    for p in netlist.populations:
        shape = _turned(p.shape)
        if p is netlist.input:
            spikes = (rng.random((*shape, 4)) < 0.3).astype(np.int64)
            sources[p.name] = Stimulus(data=spikes).s_out
            continue
        neurons = LIF(shape=shape, du=4095, dv=0, vth=200, bias_mant=0)
        for c in netlist.into(p.name):
            _connect(c.map, sources[c.source], neurons.a_in)
        sources[p.name] = neurons.s_out
    return neurons


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1]  # Lava: (W, H, C)


def _connect(linear_map: LinearMap, spikes: Any, drive: Any) -> None:
    if isinstance(linear_map, Diagonal):
        channels = linear_map.in_shape[0]
        weight = np.broadcast_to(linear_map.weight, linear_map.in_shape)[:, :1, :1, np.newaxis]
        linear_map = Conv(weight, linear_map.in_shape, linear_map.out_shape, groups=channels)
    if isinstance(linear_map, Conv):
        # Lava: (W, H, C), and a convolution where PyTorch correlates.
        synapse: AbstractProcess = StockConv(
            weight=np.array(linear_map.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1), int),
            input_shape=_turned(linear_map.in_shape),
            stride=linear_map.stride[::-1],
            padding=linear_map.padding[::-1],
            dilation=linear_map.dilation[::-1],
            groups=linear_map.groups,
        )
        spikes.connect(synapse.s_in)
    elif isinstance(linear_map, Dense):
        weights = np.array(linear_map.weight, int).reshape(-1, *linear_map.in_shape)
        turned = weights.transpose(0, *range(weights.ndim - 1, 0, -1))
        synapse = StockDense(weights=turned.reshape(len(weights), -1))
        spikes.flatten().connect(synapse.s_in)
    else:
        raise TypeError(f"{linear_map.pretty()} has no stock synapse here")
    synapse.a_out.connect(drive)


def ours(netlist: Netlist, inputs: Ints) -> AbstractProcess:
    """Our network, as the backend's worker builds it, without recording; one of its processes."""
    count = len(netlist.populations) + len(netlist.connections)
    nothing: dict[str, dict[str, Any]] = {p.name: {} for p in netlist.populations}
    unobserved: list[Any] = [None] * count
    times = clocks(netlist, None, None)
    return network.build(netlist, inputs, unobserved, nothing, times)[0]


def milliseconds_per_step(process: AbstractProcess, warm_up: int, steps: int) -> float:
    """Time per step of the process's network once `warm_up` steps are done."""
    config = Loihi2SimCfg(select_tag="fixed_pt")
    process.run(RunSteps(warm_up), config, CHANNELS)
    start = time.perf_counter()
    process.run(RunSteps(steps))
    elapsed = time.perf_counter() - start
    process.stop()
    return elapsed / steps * 1e3


def supervised(netlist: Netlist, inputs: Ints, images: int) -> float:
    """Milliseconds per step of the whole backend: a long run less a short one, start-up cancels."""
    taken = []
    for count in (1, 1 + images):
        start = time.perf_counter()
        runner.run(netlist, np.resize(inputs, (count, *inputs.shape[1:])))
        taken.append(time.perf_counter() - start)
    return (taken[1] - taken[0]) / (images * netlist.steps) * 1e3


def measure(steps: int, repeats: int) -> list[dict[str, object]]:
    """Rows of the report."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--prepare", name]
        subprocess.run(command, check=True, stdout=sys.stderr)
        netlist = artifact.read(Path(name) / "model.h5").netlist
        inputs = np.load(Path(name) / "inputs.npy", allow_pickle=False)
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    filled = plan.latency  # from then on every layer has an image to work on
    needed = -(-(filled + 10 * steps) // netlist.steps) + 1
    stream = np.resize(inputs, (needed, *inputs.shape[1:]))
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(repeats):
        times["ours"].append(milliseconds_per_step(ours(netlist, stream), filled, 10 * steps))
        times["stock"].append(milliseconds_per_step(stock(netlist), 1, steps))
    whole = supervised(netlist, inputs, 20)
    best = {name: min(taken) for name, taken in times.items()}
    processes = len(netlist.populations) + len(netlist.connections)
    return [
        _row("our processes", processes, ""),
        _row("stock: LIF, Conv, Dense", best["stock"], "ms/step"),
        _row("ours: Window, Synapse, Readout", best["ours"], "ms/step"),
        _row("speed-up", best["stock"] / best["ours"], "x", SPEED_UP),
        _row("ours through lapilli.run", whole, "ms/step"),
    ]


def _row(name: str, value: float, unit: str, target: float | None = None) -> dict[str, object]:
    holds = target is None or value >= target
    return {"measure": name, "value": value, "unit": unit, "target": target, "holds": holds}


def main() -> int:
    """Print the table or one JSON object; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="stock steps; ours take ten times")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare is not None:
        prepare(options.prepare)
        return 0
    rows = measure(options.steps, options.repeats)
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
        print(json.dumps({"benchmark": "time_lava_resnet", "machine": machine, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['measure']:<32}{row['value']:>10.4g} {row['unit']}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
