"""Max pools that a training run over time steps would train otherwise than they are compiled.

In training the maximum is taken of what is sent in a step: of spikes, that is a logical or. A
netlist sends as often as the busiest input of the pool does (`neurons.rate_max`), which is the
maximum of what spikes stand for. Over several steps the two differ, by as much as the inputs'
spikes miss each other.
"""

from __future__ import annotations

from torch import Tensor

from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.frontend import network_of
from lapilli.compiler.layers.activation import Activate
from lapilli.compiler.layers.max_pooling import MaxPool
from lapilli.compiler.passes.reorder_pools import reorder_pools
from lapilli.compiler.training.spiking_network import SpikingNetwork


def check_pools(spiking: SpikingNetwork, images: Tensor) -> None:
    """Raise UnsupportedOperatorError for a max pool that is not exact in a window of several steps.

    images: (N, ...) as the network takes them. Exact is one between the image's first layer and its
    activation: the drive is the same in every step, and where it is largest, most has been sent at
    any time. Of one step a spike is the count, so that all are exact. Raises what capture raises.
    """
    if spiking.steps == 1:
        return
    graph = network_of(spiking.analog()).capture(images[:2].cpu().numpy())
    moved = {node.name: node for node in reorder_pools(graph)}
    spikes: set[str] = set()
    for node in graph:
        reached = any(name in spikes for name in node.inputs)
        if isinstance(node, MaxPool):
            steady = not reached and isinstance(moved[moved[node.name].inputs[0]], Activate)
            if not steady:
                raise _refused(node, spiking.steps)
        if reached or isinstance(node, Activate):
            spikes.add(node.name)


def _refused(node: MaxPool, steps: int) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f"{node.name} at {node.where}",
        "what is trained over time steps pools counts, not what comes in one step",
        found=f"max pooling, {steps} steps",
        allowed="average pooling or strides; max pooling of one step, or between the first layer "
        "and its activation",
        remedy="Put nn.AvgPool2d in its place, or train with the kind quantised, whose unary "
        "windows (method parallel) pool counts exactly.",
    )
