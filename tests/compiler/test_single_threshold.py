"""LM-HT in neurons of one threshold: the option, what it takes, where it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample_networks
from command_line import SmallNetwork, runner
from torch import nn

import lapilli
import lapilli.layers
from lapilli import models
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Readout, SoftResetIF, Source
from lapilli.compiler.passes.reparameterise import several_thresholds
from lapilli.runtime import quantise_input, reference

LMHT = lapilli.methods.LMHT


def compiled(name: str, method: object, profile: str = "loihi2") -> Artifact:
    x, model = sample_networks.images(name, 40), sample_networks.network(name)
    return lapilli.compile(model, calibration=x, method=method, profile=profile)


def counts(netlist: Netlist, x: Array) -> dict[str, Array]:
    return dict(reference.run(netlist, quantise_input(netlist, x)[0], record="counts").counts)


@pytest.mark.parametrize("profile", ["loihi2", "loihi1"])
@pytest.mark.parametrize(("levels", "steps"), [(4, 2), (3, 2), (5, 1), (1, 3)])
def test_the_option_makes_the_netlist_of_one_threshold(
    levels: int, steps: int, profile: str
) -> None:
    """Loihi 1 has no graded spikes, which this does without."""
    x = sample_networks.images("residual", 40)
    method = LMHT(levels=levels, steps=steps, single_threshold=True)
    net = compiled("residual", method, profile)
    assert net.netlist.steps == levels * steps
    kinds = {type(p.neuron) for p in net.netlist.populations}
    assert kinds == {Source, SoftResetIF, Readout}
    assert lapilli.verify(net, x[:3], backends=("reference",)).ok
    several = several_thresholds(net.netlist, levels)
    assert several.steps == steps
    ours, theirs = counts(net.netlist, x), counts(several, x)
    np.testing.assert_array_equal(ours["relu"], theirs["relu"])  # even drive
    last = list(ours)[-1]
    assert (ours[last] != theirs[last]).mean() < 0.25


def test_one_threshold_counts_as_several_where_the_weights_are_the_same() -> None:
    """Powers of two take nothing from the weights."""
    x = sample_networks.images("residual", 40)
    one = compiled("residual", LMHT(levels=4, steps=2, single_threshold=True))
    many = compiled("residual", LMHT(levels=4, steps=2))
    np.testing.assert_array_equal(
        lapilli.run(one, x).counts["relu"], lapilli.run(many, x).counts["relu"]
    )
    assert one.provenance.options["single_threshold"] is True


def test_one_threshold_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(NetlistError) as caught:
        compiled("vectors", LMHT(single_threshold=True), "lava-stock")
    assert caught.value.rule == "a membrane L times as large has its reset subtracted"
    for more in ({"keep": 0.5}, {"mixing": "full"}):
        layer = lapilli.layers.MultiThreshold(2, 2, **more)  # type: ignore[arg-type]
        network = nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(3, 2))
        trained = lapilli.layers.SpikingNetwork(network, 2)
        with pytest.raises(InputError) as refused:
            lapilli.compile(
                trained.analog(),
                calibration=np.eye(3, dtype=np.float32),
                method=LMHT(levels=2, single_threshold=True),
            )
        assert refused.value.where == "option single_threshold"


def test_the_command_line_makes_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "load", lambda spec, weights: SmallNetwork().eval())
    given = ("--method", "lm-ht", "--levels", 2, "--steps", 3, "--single-threshold")
    outcome = runner(capsys)(
        *("compile", "any:Net", "--calib", "digits", "--calib-samples", 32),
        *(*given, "-o", tmp_path / "m.h5"),
    )
    assert outcome.code == 0, outcome.err
    assert lapilli.load(tmp_path / "m.h5").netlist.steps == 6


@pytest.mark.lava
def test_lava_computes_the_form_of_one_threshold() -> None:
    x = sample_networks.images("vectors", 2, seed=3)
    found = lapilli.verify(compiled("vectors", LMHT(2, steps=2, single_threshold=True)), x)
    assert found.first_difference is None
    assert found.ok
