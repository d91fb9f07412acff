"""How far Lava's own sigma-delta neuron strays on a video, and why a chain replaces it.

Its activity a, an integer, is sent as changes, floored to multiples of theta = 2**k; the bits below
are lost with every message, and a change below theta waits. Let n' be what has been sent in all,
m the number of messages, r what waits, l_i what message i has lost:
    theta * n' = a - r - sum(l_i),  -theta < r < theta,  0 <= l_i < theta.
So floor(a / theta) - m <= n' <= floor(a / theta) + 1. After one message from rest it is exact, for
then what is lost is a's own remainder.
"""

from __future__ import annotations

import numpy as np
import pytest
import stock_netlists
from hypothesis import given
from hypothesis import strategies as st

from lapilli.compiler.linear import frozen
from lapilli.compiler.neurons import LavaSigmaDelta, SigmaDelta, Source
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime.lava import stock

EXPONENT = 4
THETA = 2**EXPONENT
ZERO = frozen(0, np.int64)


def strays(activity: list[int], exponent: int) -> list[tuple[int, int]]:
    """(n' - floor(a / theta), messages so far) after each step, as lava.proc.sdn has it."""
    theta, before, rest, sent, messages = 2**exponent, 0, 0, 0, 0
    found = []
    for act in activity:
        change = act - before + rest
        fires = abs(change) >= theta
        sent += (change >> exponent) * fires
        messages += fires
        rest, before = 0 if fires else change, act
        found.append((sent - (act >> exponent), messages))
    return found


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12), st.integers(0, 6))
def test_the_bound_is_never_exceeded(activity: list[int], exponent: int) -> None:
    for error, messages in strays(activity, exponent):
        assert -messages <= error <= 1


def test_the_first_message_from_rest_is_exact() -> None:
    assert all(strays([act], EXPONENT)[0][0] == 0 for act in range(200))


# Each step of 2 theta - 1 is one message that loses theta - 1; the last step, theta - 1, waits.
CLIMBING = [(2 * THETA - 1) * i for i in range(1, 8)]
CLIMBING.append(CLIMBING[-1] + THETA - 1)
# What fell by less than theta is not sent, so what was sent stands above what is.
FALLING = [THETA, THETA - 1]


def test_the_bound_is_reached() -> None:
    assert strays(CLIMBING, EXPONENT)[-1] == (-7, 7)
    assert strays(FALLING, EXPONENT)[-1] == (1, 1)


@pytest.mark.lava
def test_lava_strays_like_that_and_the_chain_does_not() -> None:
    rng = np.random.default_rng(0)
    walk = np.abs(rng.integers(-40, 41, (6, 8)).cumsum(1))
    frames: Int64Array = np.concatenate([[CLIMBING], [FALLING * 4], walk])[:, :, np.newaxis]
    source, steps = Source(0, 2**10, "changes"), frames.shape[1]
    own = LavaSigmaDelta(frozen(1, np.int64), ZERO, ZERO, ZERO, ZERO, 0, 2**10, 0, EXPONENT, "relu")
    chain = SigmaDelta(frozen(THETA, np.int64), ZERO, ZERO, 2**10 // THETA)
    sent = {}
    for name, neuron in {"own": own, "chain": chain}.items():
        netlist = stock_netlists.line(neuron, source=source, steps=steps)
        trace = stock.run(netlist, frames, record="spikes")
        sent[name] = trace.spikes["it"][:, :, 0].cumsum(1)
    exact = frames[:, :, 0] // THETA
    np.testing.assert_array_equal(sent["chain"], exact)
    expected = [
        [error for error, _ in strays(video.tolist(), EXPONENT)] for video in frames[:, :, 0]
    ]
    np.testing.assert_array_equal(sent["own"] - exact, expected)
    assert (sent["own"] - exact)[0, -1] == -7
    assert (sent["own"] - exact)[1, -1] == 1
