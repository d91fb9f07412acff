"""Our convolution synapse against Lava's own, in one run: 64 to 64 channels, 3x3, 32x32.

python tests/benchmarks/time_lava_synapse.py [--steps N] [--json]

Both stand between the same stock processes, which send and keep the same binary spikes, 30 % of
them ones; a step is that of the whole network. The currents of every step must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in the backend's worker

import numpy as np
import numpy.typing as npt
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.conv.process import Conv as StockConv
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Stimulus

from lapilli.compiler.linear import Conv, frozen
from lapilli.runtime.lava import Synapse

CHANNELS, SIZE, PATTERNS, WARM_UP = 64, 32, 4, 4
SPEED_UP = 20.0
Ints = npt.NDArray[np.int64]


def milliseconds_per_step(
    synapse: AbstractProcess, spikes: Ints, steps: int
) -> tuple[float, npt.NDArray[np.float64]]:
    """Time per step of stimulus -> synapse -> sink, and the currents of the last PATTERNS steps."""
    source, sink = Stimulus(data=spikes), Sink(shape=synapse.a_out.shape, buffer=PATTERNS)
    source.s_out.connect(synapse.s_in)
    synapse.a_out.connect(sink.a_in)
    sink.run(RunSteps(WARM_UP), Loihi2SimCfg(select_tag="fixed_pt"))
    start = time.perf_counter()
    sink.run(RunSteps(steps))
    elapsed = time.perf_counter() - start
    kept = sink.data.get()
    sink.stop()
    return elapsed / steps * 1e3, kept


def measure(steps: int) -> list[dict[str, object]]:
    """Rows of the report."""
    rng = np.random.default_rng(0)
    spikes = (rng.random((CHANNELS, SIZE, SIZE, PATTERNS)) < 0.3).astype(np.int64)
    weight = rng.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3))
    shape = (CHANNELS, SIZE, SIZE)
    ours, expected = milliseconds_per_step(
        Synapse(map=Conv(frozen(weight), shape, shape, (1, 1), (1, 1))), spikes, steps
    )
    # Lava: (W, H, C), and a convolution where PyTorch correlates.
    stock_conv = StockConv(
        weight=weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),
        input_shape=shape[::-1],
        padding=1,
        num_message_bits=1,
    )
    stock, kept = milliseconds_per_step(stock_conv, spikes.transpose(2, 1, 0, 3), steps)
    equal = np.array_equal(expected, kept.transpose(2, 1, 0, 3))
    return [
        _row("stock lava.proc.conv.Conv", stock, "ms/step"),
        _row("lapilli.runtime.lava.Synapse", ours, "ms/step"),
        _row("speed-up", stock / ours, "x", SPEED_UP),
        _row("equal currents", float(equal), "", 1.0),
    ]


def _row(name: str, value: float, unit: str, target: float | None = None) -> dict[str, object]:
    holds = target is None or value >= target
    return {"measure": name, "value": value, "unit": unit, "target": target, "holds": holds}


def main() -> int:
    """Print the table or one JSON object; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.steps)
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
        print(json.dumps({"benchmark": "time_lava_synapse", "machine": machine, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['measure']:<30}{row['value']:>10.4g} {row['unit']}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
