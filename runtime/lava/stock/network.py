"""From a plan to connected stock processes of Lava 0.10."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.atrlif.process import ATRLIF
from lava.proc.graded.process import GradedReluVec, GradedVec
from lava.proc.io.extractor import Extractor, PyLoihiExtractorModel
from lava.proc.io.reset import Reset
from lava.proc.io.source import RingBuffer
from lava.proc.lif.process import LIF
from lava.proc.sdn.process import ActivationMode, Delta, Sigma, SigmaDelta
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode

from lapilli.compiler.neurons.lava_sigma_delta import Activation
from lapilli.runtime.lava.stock.plan import Kind, Plan, Stage, Wire

PROCESSES: dict[Kind, type[AbstractProcess]] = {
    "ATRLIF": ATRLIF,
    "Delta": Delta,
    "GradedReluVec": GradedReluVec,
    "GradedVec": GradedVec,
    "LIF": LIF,
    "RingBuffer": RingBuffer,
    "Sigma": Sigma,
    "SigmaDelta": SigmaDelta,
}
"""The stock process of every kind of stage."""
ACTIVATIONS: dict[Activation, ActivationMode] = {
    "relu": ActivationMode.RELU,
    "unit": ActivationMode.UNIT,
}
MESSAGE_BITS = 24
BUFFER = 64
"""Messages that wait for the host at most; then the network does."""


class Network(NamedTuple):
    """Connected processes; first: any of them, which runs all; extractors: one per tap."""

    first: AbstractProcess
    extractors: list[Extractor]


def configuration() -> Loihi2SimCfg:
    """Fixed point everywhere; the extractor has one model, which bears no tag."""
    return Loihi2SimCfg(
        select_tag="fixed_pt", exception_proc_model_map={Extractor: PyLoihiExtractorModel}
    )


def build(plan: Plan) -> Network:
    """Every process of a plan, connected."""
    built = {stage.name: _stage(stage) for stage in plan.stages}
    for wire in plan.wires:
        source, target = built[wire.source], built[wire.target]
        if wire.matrix is None:
            source.s_out.connect(target.a_in)
            continue
        synapse = _synapse(wire, wire.matrix)
        source.s_out.connect(synapse.s_in)
        synapse.a_out.connect(target.a_in)
    for clear in plan.clears:
        reset = Reset(reset_value=clear.value, interval=plan.interval, offset=clear.offset)
        reset.connect_var(getattr(built[clear.stage], clear.variable))
    extractors = []
    for tap in plan.taps:
        sender = built[tap.stage].s_out
        extractor = Extractor(shape=sender.shape, buffer_size=BUFFER)
        sender.connect(extractor.in_port)
        extractors.append(extractor)
    return Network(built[plan.stages[0].name], extractors)


def _stage(stage: Stage) -> AbstractProcess:
    process = PROCESSES[stage.kind]
    if stage.kind == "RingBuffer":
        return process(**stage.parameters)
    parameters = dict(stage.parameters)
    if "act_mode" in parameters:
        parameters["act_mode"] = ACTIVATIONS[parameters["act_mode"]]
    return process(shape=(stage.size,), **parameters)


def _synapse(wire: Wire, matrix: sp.csr_matrix) -> AbstractProcess:
    keywords = {
        "weights": matrix,
        "weight_exp": wire.exponent,
        "num_message_bits": MESSAGE_BITS,
        "sign_mode": SignMode.MIXED,
    }
    if not wire.delay:
        return Sparse(**keywords)
    delays = sp.csr_matrix(matrix != 0, dtype=np.int64) * wire.delay
    return DelaySparse(**keywords, delays=delays, max_delay=wire.delay)
