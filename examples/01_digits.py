"""From a trained PyTorch network to spikes, checked and priced, on handwritten digits."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import lapilli
from lapilli import data, digits

# A small CNN with BatchNorm and a residual block, trained here in a few seconds. Any nn.Module will
# do: see lapilli/digits.py for how plain its code is.
network = digits.train()
train, test = (data.load("digits", split=split) for split in ("train", "test"))
assert test.labels is not None
with torch.no_grad():
    ann = network(torch.from_numpy(test.images)).numpy().argmax(1)

# Compile: the images calibrate thresholds, the method says how activity becomes spikes.
net = lapilli.compile(
    network,
    calibration=train.images,
    method=lapilli.methods.Parallel(levels=8),
    profile="loihi2",
)

# A model file holds the whole network: integers, the scale of each, and where they come from.
with TemporaryDirectory() as folder:
    net.save(Path(folder) / "digits.h5")
    net = lapilli.load(Path(folder) / "digits.h5")

trace = lapilli.run(net, test.images)
snn = np.asarray(trace.outputs).argmax(1)
print(f"accuracy on {len(test)} digits: ANN {100 * (ann == test.labels).mean():.2f} %, ", end="")
print(f"SNN {100 * (snn == test.labels).mean():.2f} %")
for name, counts in trace.counts.items():
    print(f"  {name}: neurons {counts.shape[1:]}, mean count {counts.mean():.2f}")

# Every integer is what the quantised ANN computes; pass backends=("reference", "lava") for Lava.
verification = lapilli.verify(net, test.images[:16], backends=("reference",))
for row in verification.rows:
    print(f"{row.name}: {row.equal} of {row.compared} equal")
assert verification.ok, verification.first_difference

estimate = lapilli.estimate(net, test.images)
energy = estimate.single.total_pj
print(f"one image on {estimate.title}: {energy.mid / 1e6:.0f} uJ ", end="")
print(f"({energy.low / 1e6:.0f} to {energy.high / 1e6:.0f}), {estimate.single.time_us.mid:.0f} us")
