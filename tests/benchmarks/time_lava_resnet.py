"""ResNet-20 on Lava: a step of our processes against the same network of stock ones, in one run.

python tests/benchmarks/time_lava_resnet.py [--steps N] [--repeats N] [--json]

Ours is what `lapilli.compile` makes of examples/03_resnet20.py (parallel, unary, L=4), with the
shared weights and images where they are, else with random ones. The stock network has the same
shapes and integer weights: lava.proc.conv.Conv, Dense and LIF; a residual sum is two connections
into one LIF, an identity shortcut, which has a weight, too, a depthwise 1x1 Conv. Both are built
and stepped alike, in turns; the fastest turn of each counts. The stock network's time does not
depend on its spikes; ours is taken when every layer works on images. On a machine that does other
work, the processor time, of all processes together, says more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
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
from lapilli.runtime.lava import network
from lapilli.runtime.lava.clock import clocks

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CIFAR10, WEIGHTS = SHARED / "cifar10.tar.xz", SHARED / "resnet20_cifar10.safetensors"
LEVELS = 4
SPEED_UP = 10.0
Numbers = npt.NDArray[Any]
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
    low, high = net.netlist.source.low, net.netlist.source.high
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


def ours(netlist: Netlist, inputs: Numbers) -> AbstractProcess:
    """Our network, as the backend's worker builds it, without recording; one of its processes."""
    count = len(netlist.populations) + len(netlist.connections)
    nothing: dict[str, dict[str, Any]] = {p.name: {} for p in netlist.populations}
    unobserved: list[Any] = [None] * count
    times = clocks(netlist, None, None)
    return network.build(netlist, inputs, unobserved, nothing, times)[0]


def milliseconds_per_step(process: AbstractProcess, warm_up: int, steps: int) -> Numbers:
    """Time and processor time per step of a process's network, after `warm_up` steps."""
    config = Loihi2SimCfg(select_tag="fixed_pt")
    process.run(RunSteps(warm_up), config, CHANNELS)
    before = np.array([time.perf_counter(), _processor_seconds()])
    process.run(RunSteps(steps))
    elapsed = np.array([time.perf_counter(), _processor_seconds()]) - before
    process.stop()
    return np.asarray(elapsed / steps * 1e3)


def _processor_seconds() -> float:
    """What this process and its children have used; 0 where there is no /proc."""
    ticks = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            ticks += sum(int(field) for field in stat.read_text().rpartition(")")[2].split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


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
    turns = []
    for _ in range(repeats):
        own = milliseconds_per_step(ours(netlist, stream), filled, 10 * steps)
        turns.append([own, milliseconds_per_step(stock(netlist), 1, steps)])
    (wall, processor), (stock_wall, stock_processor) = np.min(turns, axis=0)
    return [
        _row("processes of ours", len(netlist.populations) + len(netlist.connections), ""),
        _row("stock: LIF, Conv, Dense", stock_wall, "ms/step"),
        _row("ours: Window, Synapse, Readout", wall, "ms/step"),
        _row("speed-up", stock_wall / wall, "x", SPEED_UP),
        _row("stock, processor time", stock_processor, "ms/step"),
        _row("ours, processor time", processor, "ms/step"),
    ]


def _row(name: str, value: float, unit: str, target: float | None = None) -> dict[str, object]:
    value, holds = float(value), bool(target is None or value >= target)
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
