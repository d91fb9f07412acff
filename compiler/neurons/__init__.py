"""What each neuron model computes in one time step, in plain integers: the definition.

One model per file. Every backend is tested equal to `step`, and `step` to loops over Python
integers (tests/oracles.py).
"""

from lapilli.compiler.neurons.graded_max import GradedMax as GradedMax
from lapilli.compiler.neurons.hard_reset_if import HardResetIF as HardResetIF
from lapilli.compiler.neurons.ladder import Ladder as Ladder
from lapilli.compiler.neurons.lava_delta import LavaDelta as LavaDelta
from lapilli.compiler.neurons.lava_sigma_delta import LavaSigmaDelta as LavaSigmaDelta
from lapilli.compiler.neurons.lif import LIF as LIF
from lapilli.compiler.neurons.model import STATE_BITS as STATE_BITS
from lapilli.compiler.neurons.model import Interval as Interval
from lapilli.compiler.neurons.model import NeuronModel as NeuronModel
from lapilli.compiler.neurons.model import State as State
from lapilli.compiler.neurons.multi_threshold import MultiThreshold as MultiThreshold
from lapilli.compiler.neurons.or_gate import OrGate as OrGate
from lapilli.compiler.neurons.product import Product as Product
from lapilli.compiler.neurons.rate_gate import RateGate as RateGate
from lapilli.compiler.neurons.rate_max import RateMax as RateMax
from lapilli.compiler.neurons.readout import Readout as Readout
from lapilli.compiler.neurons.relay import Relay as Relay
from lapilli.compiler.neurons.sending import AnySending as AnySending
from lapilli.compiler.neurons.sending import Sending as Sending
from lapilli.compiler.neurons.sigma_delta import SigmaDelta as SigmaDelta
from lapilli.compiler.neurons.signed_if import SignedIF as SignedIF
from lapilli.compiler.neurons.soft_reset_if import SoftResetIF as SoftResetIF
from lapilli.compiler.neurons.source import TIMINGS as TIMINGS
from lapilli.compiler.neurons.source import Source as Source
from lapilli.compiler.neurons.source import Timing as Timing
from lapilli.compiler.neurons.staircase import Staircase as Staircase
from lapilli.compiler.neurons.window import Window as Window

MODELS: tuple[type[NeuronModel], ...] = (
    Source,
    SoftResetIF,
    HardResetIF,
    SignedIF,
    MultiThreshold,
    Window,
    Ladder,
    OrGate,
    RateMax,
    RateGate,
    GradedMax,
    Product,
    SigmaDelta,
    Relay,
    Readout,
    LIF,
    LavaDelta,
    LavaSigmaDelta,
)
"""Every model; files, backends and tests are total over it."""
