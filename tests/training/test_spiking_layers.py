"""The spiking layers: theorems of the methods, gradients, the analog mode, what they refuse.

I2.n, I3.n: properties of LM-HT (Hao et al., NeurIPS 2024) and of Fast-SNN (Hu et al., TPAMI 2023).
Drives are whole numbers, so that float32 is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import grid_networks
import pytest
import torch
from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.training import straight_through
from lapilli.compiler.training.spiking_layers import Mixing
from lapilli.compiler.training.surrogates import SURROGATES
from lapilli.layers import IF, QCFS, MultiThreshold, SignedIF, SpikingLayer, SpikingNetwork

SAMPLES = 4000
Q = 60
"""The threshold of one spike."""


def drives(low: int, high: int, steps: int, seed: int = 0, samples: int = SAMPLES) -> Tensor:
    """(T, N), whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, (steps, samples), generator=generator).float()


def counts(layer: SpikingLayer, x: Tensor) -> Tensor:
    """Spikes (T, N) for drive (T, N)."""
    levels = layer.levels if isinstance(layer, MultiThreshold) else 1
    sent = layer(x.reshape(-1, 1)).reshape(x.shape)
    return (sent * levels / layer.threshold).detach()


def several(levels: int, steps: int, **more: object) -> MultiThreshold:
    return MultiThreshold(levels, steps, float(Q * levels), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 7])
def test_a_step_of_several_thresholds_is_as_many_steps_of_one(levels: int) -> None:
    """I2.1, for any drive, below zero and above all thresholds, too."""
    x = drives(-3 * Q, Q * levels + 3 * Q, 1, levels)
    many = counts(several(levels, 1), x * levels)
    one = counts(IF(levels, float(Q)), x.repeat(levels, 1))
    assert torch.equal(many[0], one.sum(0))


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-2 * Q, 0), (0, 2 * Q)])
def test_windows_agree_where_drive_leaves_the_range_on_one_side_only(low: int, high: int) -> None:
    """I2.2 (theorem 4.2 (i)), and stronger."""
    levels, steps = 3, 5
    x = drives(low, Q + high, steps, 1)  # an L-th of the drive of a step
    many = counts(several(levels, steps), x * levels)
    one = counts(IF(levels * steps, float(Q)), x.repeat_interleave(levels, 0))
    assert torch.equal(many, one.unflatten(0, (steps, levels)).sum(1))


def test_windows_differ_where_it_leaves_it_on_both() -> None:
    """I2.2: the smallest counterexamples."""
    x = torch.tensor([[4.3, -1.2], [-2.0, 4.0]]) * Q
    many = counts(several(2, 2, initial="zero"), x)
    fine = IF(4, float(Q), initial="zero")
    one = counts(fine, (x / 2).repeat_interleave(2, 0)).unflatten(0, (2, 2)).sum(1)
    assert many.T.tolist() == [[2, 0], [0, 2]]
    assert one.T.tolist() == [[2, 1], [0, 1]]


@pytest.mark.parametrize("initial", ["half", "zero"])
@pytest.mark.parametrize(("levels", "steps"), [(12, 1), (4, 3), (2, 6), (1, 12)])
def test_constant_drive_is_counted_as_the_quantised_unit_counts_it(
    levels: int, steps: int, initial: str
) -> None:
    """I2.3 (theorem 4.2 (ii)), for L thresholds and for one."""
    x = drives(-Q, Q * levels + Q, 1, 2)
    start = Q // 2 if initial == "half" else 0
    expected = ((start + steps * x[0]) / Q).floor().clamp(0, 12)
    many = counts(several(levels, steps, initial=initial), x.repeat(steps, 1))
    assert torch.equal(many.sum(0), expected)
    if levels == 1:
        one = IF(steps, float(Q), initial=initial)  # type: ignore[arg-type]
        assert torch.equal(counts(one, x.repeat(steps, 1)).sum(0), expected)


def test_spikes_are_the_same_in_every_step_exactly_where_the_corollary_says() -> None:
    """I2.4 (corollary 4.3): I in [k theta, k theta + theta / T), below 0, or above L theta."""
    levels, steps = 3, 4
    x = torch.arange(-Q, levels * Q + Q).float()
    sent = counts(several(levels, steps, initial="zero"), x.repeat(steps, 1))
    even = (sent == sent[0]).all(0)
    expected = (x < 0) | (x >= levels * Q) | (x % Q < Q / steps)
    assert torch.equal(even, expected)
    assert 0 < int(even.sum()) < len(x)


def test_one_threshold_without_mixing_is_plain_integrate_and_fire() -> None:
    """I2.7: omega the identity, learned or absent."""
    x = drives(-2 * Q, 3 * Q, 2, 3)
    learned = several(1, 2, mixing="full")
    assert learned.logits is not None
    nn.init.constant_(learned.logits, -200.0)
    learned.logits.data.fill_diagonal_(200.0)
    assert torch.equal(learned.omega(), torch.eye(2))  # type: ignore[arg-type]
    plain = counts(IF(2, float(Q)), x)
    assert torch.equal(counts(several(1, 2), x), plain)
    assert torch.equal(counts(learned, x), plain)


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_one_step_is_the_quantised_activation(levels: int) -> None:
    """I2.7: L levels, half a threshold at the start."""
    x = drives(-2 * Q, (levels + 2) * Q, 1, 4).reshape(-1, 1)
    assert torch.equal(several(levels, 1)(x), QCFS(levels, float(Q * levels))(x))


def test_the_matrix_starts_as_the_mean() -> None:
    full, causal = several(2, 4, mixing="full").omega(), several(2, 4, mixing="causal").omega()
    assert full is not None
    assert causal is not None
    assert torch.equal(full, torch.full((4, 4), 0.25))
    torch.testing.assert_close(causal.sum(1), torch.ones(4))
    assert torch.equal(causal, causal.tril())
    assert several(2, 1, mixing="full").omega() is None


@pytest.mark.parametrize(("levels", "steps"), [(4, 2), (2, 4), (3, 2), (1, 4)])
def test_hybrid_training_starts_at_the_quantised_network(levels: int, steps: int) -> None:
    """I2.6: QCFS of L T levels is LM-HT with omega = 1 / T, layer by layer, biases as they are."""
    step = 0.25
    top = step * levels * steps

    def build(make: Callable[[str], nn.Module]) -> nn.Module:
        return grid_networks.on_grid(grid_networks.Residual(make, 127 / 128), 5)

    def means(network: nn.Module, fold: int) -> list[Tensor]:
        kept: list[Tensor] = []
        for module in network.modules():
            if isinstance(module, (QCFS, SpikingLayer)):
                module.register_forward_hook(
                    lambda m, a, y: kept.append(y.unflatten(0, (fold, -1)).mean(0))
                )
        network(torch.from_numpy(grid_networks.images(9)).repeat(fold, 1, 1, 1))
        return kept

    quantised = means(build(lambda name: QCFS(levels * steps, top)), 1)
    mixing = means(build(lambda name: MultiThreshold(levels, steps, top, "full")), steps)
    assert len(quantised) == len(mixing) == 4
    for expected, found in zip(quantised, mixing, strict=True):
        assert expected.any()
        assert torch.equal(found, expected)
    unmixed = means(build(lambda name: MultiThreshold(levels, steps, top)), steps)
    assert torch.equal(unmixed[0], quantised[0])
    assert not torch.equal(unmixed[2], quantised[2])


@pytest.mark.parametrize("steps", [3, 7, 15])
def test_signed_spikes_of_a_constant_drive_are_the_quantised_activation(steps: int) -> None:
    """I3.1."""
    x = drives(-Q, 2 * Q, 1, 5)
    sent = counts(SignedIF(steps, float(Q)), x.repeat(steps, 1))
    assert torch.equal(sent.sum(0), ((Q // 2 + steps * x[0]) / Q).floor().clamp(0, steps))


@pytest.mark.parametrize("steps", [3, 7])
def test_signed_spikes_keep_charge_and_are_right_exactly_where_it_is_spent(steps: int) -> None:
    """I3.2, I3.3, I3.4: equal to the quantised unit iff v is in [0, theta), or it is saturated."""
    x = drives(-Q, Q + Q // 2, steps, 6)
    sent = counts(SignedIF(steps, float(Q)), x)
    n = sent.cumsum(0)
    assert ((n >= 0) & (n <= steps)).all()
    assert (sent < 0).any()
    v = Q // 2 + x.sum(0) - Q * n[-1]
    spent = ((v >= 0) & (v < Q)) | ((v < 0) & (n[-1] == 0)) | ((v >= Q) & (n[-1] == steps))
    quantised = ((Q // 2 + x.sum(0)) / Q).floor().clamp(0, steps)
    assert torch.equal(n[-1] == quantised, spent)
    assert 0 < int((~spent).sum()) < SAMPLES / 4


def learned_matrix() -> MultiThreshold:
    layer = MultiThreshold(2, 4, 4.0, "full")
    assert layer.logits is not None
    generator = torch.Generator().manual_seed(0)
    layer.logits.data = 200.0 * torch.randint(-1, 2, (4, 4), generator=generator)
    return layer


LAYERS: dict[str, Callable[[], SpikingLayer]] = {
    "if": lambda: IF(8, 4.0),
    "if from zero": lambda: IF(8, 4.0, initial="zero"),
    "if to zero": lambda: IF(8, 4.0, reset="zero"),
    "signed": lambda: SignedIF(8, 4.0),
    "several": lambda: MultiThreshold(3, 4, 6.0),
    "several from zero": lambda: MultiThreshold(2, 4, 4.0, initial="zero"),
    "leaky": lambda: MultiThreshold(2, 4, 4.0, keep=0.5),
    "mixing": lambda: MultiThreshold(2, 4, 4.0, "full"),
    "leaky and mixing": lambda: MultiThreshold(2, 4, 4.0, "full", keep=0.75),
    "learned": learned_matrix,
    "channels": lambda: IF(4, torch.tensor([1.0, 2.0, 0.5])),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_analog_mode_is_the_answer_to_a_constant_drive(name: str) -> None:
    """With drives in sixteenths: ties among them, which count half up."""
    layer = LAYERS[name]()
    x = (torch.arange(-32, 128) / 16).reshape(-1, 1).expand(-1, 3).contiguous()
    steady = layer(x.repeat(layer.steps, 1)).unflatten(0, (layer.steps, -1)).mean(0)
    layer.analog = True
    assert torch.equal(layer(x), steady)
    assert len(steady.unique()) > 4


def test_the_analog_staircase_lets_gradients_pass_its_steps() -> None:
    layer = MultiThreshold(2, 4, 4.0)
    layer.analog = True
    x = torch.tensor([[-2.0], [1.3], [2.2], [7.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient.T, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))


def unfolded(layer: MultiThreshold, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """m, v before each step, and where the gradient passes, (T, N)."""
    one = float(layer.threshold.detach()) / layer.levels
    omega, keep = layer.omega(), float(layer.kept().detach())
    mixed = x if omega is None else omega.detach() @ x
    v, ms, vs = torch.full_like(x[0], one / 2), [], []
    for drive in mixed:
        vs.append(v)
        ms.append(keep * v + drive)
        v = ms[-1] - one * (ms[-1] / one).floor().clamp(0, layer.levels)
    m = torch.stack(ms)
    return m, torch.stack(vs), (m >= one / 2) & (m <= (layer.levels + 0.5) * one)


def test_gradients_of_several_thresholds_are_those_of_the_paper() -> None:
    """Equations 8 and 9: nothing passes through v from step to step."""
    layer = MultiThreshold(2, 3, 4.0, "full", keep=0.5, learn_keep=True)
    assert layer.logits is not None
    generator = torch.Generator().manual_seed(1)
    layer.logits.data = torch.randn(3, 3, generator=generator)
    x = (drives(-30, 90, 3, 7, 50) / 16).requires_grad_()
    weights = torch.randn(3, 50, generator=generator)
    loss = (weights * layer(x.reshape(-1, 1)).reshape(x.shape)).sum()
    omega = layer.omega()
    assert omega is not None
    by_x, by_keep, by_logits = torch.autograd.grad(loss, [x, layer.keep, layer.logits])
    _, before, inside = unfolded(layer, x.detach())
    arriving = weights * inside
    torch.testing.assert_close(by_x, omega.detach().T @ arriving)
    torch.testing.assert_close(by_keep, (arriving * before).sum())
    (expected,) = torch.autograd.grad(omega, layer.logits, arriving @ x.detach().T)
    torch.testing.assert_close(by_logits, expected)
    assert 0 < int(inside.sum()) < inside.numel()


def test_a_learned_threshold_gets_the_gradient_of_a_learned_step() -> None:
    """d(s q) / dq = s - m / q where the gradient passes, s elsewhere; q = threshold / L."""
    layer = MultiThreshold(2, 1, 4.0, learn_threshold=True)
    assert list(dict(layer.named_parameters())) == ["threshold"]
    x = torch.tensor([[-3.0], [0.5], [2.2], [9.0]])
    (found,) = torch.autograd.grad(layer(x).sum(), layer.threshold)
    m, _, inside = unfolded(layer, x.T)
    s = (m / 2).floor().clamp(0, 2)
    torch.testing.assert_close(found, ((s - inside * m / 2) / 2).sum())


@pytest.mark.parametrize("mixing", ["none", "full"])
def test_the_layout_in_memory_stays(mixing: Mixing) -> None:
    layer = MultiThreshold(2, 2, 4.0, mixing)
    x = drives(-30, 90, 6, samples=60).reshape(6, 3, 4, 5) / 16
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, layer(x))
    assert y.unique().numel() == 3


def test_the_leak_is_a_number_of_the_chip_and_does_not_leave_its_range() -> None:
    layer = MultiThreshold(2, 2, 4.0, keep=0.3, learn_keep=True)
    assert float(layer.kept().detach()) == 1229 / 4096
    assert layer.dynamics.keep == 1229 / 4096
    for keep, down, up in ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 1.0, 1.0)):
        value = torch.tensor(keep, requires_grad=True)
        found = [
            float(torch.autograd.grad(sign * straight_through.in_parts(value, 4096), value)[0])
            for sign in (1.0, -1.0)
        ]
        # A loss that grows with keep pulls it down, one that falls pulls it up.
        assert found == [down, -up]


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_gradients_of_integrate_and_fire_pass_through_time(reset: str, detach: bool) -> None:
    layer = IF(2, 2.0, initial="zero", reset=reset, detach_reset=detach)  # type: ignore[arg-type]
    x = torch.tensor([[1.5, 2.5], [0.75, 1.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    loss = (weights * layer(x.reshape(-1, 1)).reshape(x.shape)).sum()
    (found,) = torch.autograd.grad(loss, x)
    slope = SURROGATES["arctan"].slope
    v1 = x.detach()[0]
    s1 = (v1 >= 2).float()
    g1 = slope(v1 / 2 - 1)
    if reset == "subtract":
        v2, through = v1 - 2 * s1, torch.ones(2) if detach else 1 - g1
    else:
        v2, through = v1 * (1 - s1), 1 - s1 if detach else 1 - s1 - v1 * g1 / 2
    g2 = slope((v2 + x.detach()[1]) / 2 - 1)
    expected = torch.stack([weights[0] * g1 + weights[1] * g2 * through, weights[1] * g2])
    torch.testing.assert_close(found, expected)


def test_a_learned_threshold_of_integrate_and_fire() -> None:
    """d(s theta) / dtheta = s - slope * x / theta: half a threshold is there at the start."""
    layer = IF(1, 2.0, learn_threshold=True)
    (found,) = torch.autograd.grad(layer(torch.tensor([[1.5]])).sum(), layer.threshold)
    slope = SURROGATES["arctan"].slope(torch.tensor(2.5 / 2 - 1))
    torch.testing.assert_close(found, 1 - slope * 1.5 / 2)


def test_signed_spikes_pass_the_gradient_of_the_quantised_activation() -> None:
    """I3.6: the threshold is not learned."""
    layer = SignedIF(3, 4.0)
    assert not list(layer.parameters())
    x = drives(-4, 6, 3, 8, 200).requires_grad_()
    weights = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    sent = layer(x.reshape(-1, 1)).reshape(x.shape)
    (found,) = torch.autograd.grad((weights * sent).sum(), x)
    total = x.detach().sum(0) / 4 + 0.5
    inside = (total >= 0) & (total.floor() <= 3)
    torch.testing.assert_close(found, weights * inside)
    assert 0 < int(inside.sum()) < 200


def test_steps_can_be_changed_where_nothing_is_learned_for_each() -> None:
    layer = IF(4)
    layer.steps = 6
    assert layer(torch.ones(12, 2)).shape == (12, 2)
    assert layer.dynamics.steps == 6
    assert "steps=6" in repr(layer)
    mixing = MultiThreshold(2, 4, mixing="causal")
    mixing.steps = 4
    with pytest.raises(InputError) as caught:
        mixing.steps = 5
    assert caught.value.rule == "the steps of layers that mix them are fixed"
    unmixed = MultiThreshold(2, 4)
    unmixed.steps = 5
    assert unmixed.steps == 5


def test_membranes_are_single_precision_at_least() -> None:
    """Steps of 2**-12 would be lost beside 2 in half precision."""
    layer = IF(4, 2.0, initial="zero")
    x = torch.full((4, 1), 0.5 + 2**-11, dtype=torch.float16)
    assert layer(x).dtype == torch.float32
    assert layer(x).flatten().tolist() == [0, 0, 0, 2]
    assert layer(x.double()).dtype == torch.float64
    mixing = several(2, 4, mixing="full", keep=0.5)
    drive = drives(-Q, 2 * Q, 4).reshape(-1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (drive.T @ drive).dtype == torch.bfloat16
        found = mixing(drive)
    assert torch.equal(found, mixing(drive))


WRONG: dict[str, Callable[[], object]] = {
    "steps=0": lambda: IF(0),
    "steps=2.0": lambda: SignedIF(2.0),  # type: ignore[arg-type]
    "steps=True": lambda: IF(True),
    "levels=0": lambda: MultiThreshold(0, 2),
    "threshold -1.0": lambda: IF(2, -1.0),
    "threshold [1.0, 0.0]": lambda: SignedIF(2, torch.tensor([1.0, 0.0])),
    "threshold inf": lambda: MultiThreshold(2, 2, float("inf")),
    "initial='full'": lambda: IF(2, initial="full"),  # type: ignore[arg-type]
    "reset='soft'": lambda: IF(2, reset="soft"),  # type: ignore[arg-type]
    "mixing='all'": lambda: MultiThreshold(2, 2, mixing="all"),  # type: ignore[arg-type]
    "keep=1.5": lambda: MultiThreshold(2, 2, keep=1.5),
    "'step'": lambda: IF(2, surrogate="step"),
    "5 rows": lambda: IF(2)(torch.zeros(5, 1)),
    "steps=-1": lambda: setattr(IF(2), "steps", -1),
}


@pytest.mark.parametrize("found", WRONG)
def test_wrong_parameters_are_refused(found: str) -> None:
    with pytest.raises(InputError) as caught:
        WRONG[found]()
    assert caught.value.found == found


def test_a_state_dict_brings_everything_along() -> None:
    trained = SpikingNetwork(nn.Sequential(nn.Linear(2, 2), MultiThreshold(2, 2, 3.0, "full")), 2)
    nn.init.normal_(trained.network[1].logits)  # type: ignore[index]
    trained.network[1].threshold.fill_(1.5)  # type: ignore[index]
    other = SpikingNetwork(nn.Sequential(nn.Linear(2, 2), MultiThreshold(2, 2, 1.0, "full")), 2)
    other.load_state_dict(trained.state_dict())
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other(x), trained(x))
