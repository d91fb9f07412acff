"""Pictures of placements: files, sizes, what they show; seats, chips, roads; without matplotlib."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chips import chip
from command_line import Run, model_file, runner
from netlists import connection, integers, population, proven
from PIL import Image

from lapilli import map_plot, map_seats, plot_files
from lapilli.compiler.errors import BackendError
from lapilli.compiler.linear import Conv, Dense, frozen
from lapilli.compiler.mapping import Placement, place
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Readout, Source, Window
from lapilli.hardware_profiles import Profile, load

drawn = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra plots is not installed"
)


def netlist(layers: int = 2, names: str = "conv{}") -> Netlist:
    """Convolutions over 16x16, and a readout."""
    zero, shape = integers(0), (4, 16, 16)
    neuron = Window(integers(64), zero, integers(32), 3, "graded")
    draws = np.random.default_rng(0)
    populations = [population("input", (1, 16, 16), Source(0, 3, "first"))]
    connections = []
    for index in range(layers):
        name, (inputs, *_) = names.format(index), populations[-1].shape
        weight = frozen(draws.integers(-4, 5, (4, inputs, 3, 3)), np.int8)
        conv = Conv(weight, populations[-1].shape, shape, (1, 1), (1, 1), (1, 1), 1)
        connections.append(connection(populations[-1].name, name, conv))
        populations.append(population(name, shape, neuron))
    weight = frozen(draws.integers(-4, 5, (10, 1024)), np.int8)
    connections.append(connection(populations[-1].name, "out", Dense(weight, shape, (10,))))
    populations.append(population("out", (10,), Readout(zero, zero)))
    return proven(Netlist(tuple(populations), tuple(connections), 1))


SMALL = chip("loihi2", neurons_per_core=32, cores_per_chip=24)
"""Chips of 8x4 tiles of four cores, of which 24 are there."""


@pytest.fixture(scope="module")
def spread() -> Placement:
    """A few chips."""
    found = place(netlist(), SMALL, effort=0.1)
    assert found.chips > 2
    return found


def picture(placement: Placement, profile: Profile, **options: int) -> Image.Image:
    content = map_plot.picture(placement, profile, title="a $small_ network", **options)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def shows(image: Image.Image, colour: str) -> int:
    """Pixels of a colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.asarray(image).reshape(-1, 3) == wanted).all(1).sum())


@drawn
def test_cores_bars_and_free_places_have_their_colours(spread: Placement) -> None:
    image = picture(spread, SMALL)
    assert image.width == map_plot.WIDTH * map_plot.DPI
    assert 600 < image.height < 1300
    assert all(shows(image, colour) > 1000 for colour in plot_files.AREAS[:2])
    assert shows(image, plot_files.AREAS[3]) == 0  # three populations, three colours
    assert shows(image, map_plot.FREE) > 100


@drawn
def test_the_same_placement_is_the_same_picture_and_another_is_not(spread: Placement) -> None:
    first = map_plot.picture(spread, SMALL)
    assert map_plot.picture(spread, SMALL) == first
    drawing = map_plot.picture(spread, SMALL, ending=".svg")
    assert (
        drawing.startswith(b"<?xml") and map_plot.picture(spread, SMALL, ending=".svg") == drawing
    )
    assert map_plot.picture(place(netlist(), SMALL, effort=0.0), SMALL) != first


@drawn
@pytest.mark.parametrize(
    ("profile", "layers", "most_cores"),
    [
        (load("loihi2"), 2, map_seats.MOST_CORES),  # one core
        (load("unlimited"), 2, map_seats.MOST_CORES),  # no mesh, no limits
        (chip("lava-stock", neurons_per_core=300), 2, map_seats.MOST_CORES),  # no mesh
        (SMALL, 14, map_seats.MOST_CORES),  # more than a few populations
        (SMALL, 2, 1),  # chips instead of cores
    ],
)
def test_every_kind_of_system_is_drawn(profile: Profile, layers: int, most_cores: int) -> None:
    placement = place(netlist(layers), profile, effort=0.0)
    image = picture(placement, profile, most_cores=most_cores)
    assert image.width in {map_plot.WIDTH * dpi for dpi in (map_plot.DPI, map_plot.FINE)}
    assert np.asarray(image).std() > 10


@drawn
def test_names_are_text() -> None:
    odd = place(netlist(names=r"$\nonsense{{{}_\x1b"), SMALL, effort=0.0)
    assert picture(odd, SMALL).width == map_plot.WIDTH * map_plot.DPI


def test_seats_are_those_of_the_mesh(spread: Placement) -> None:
    where = map_seats.seats(spread, SMALL)
    assert not where.by_chip
    assert len(where.corner) == len(spread.cores) == len(np.unique(where.corner, axis=0))
    everywhere = np.concatenate([where.corner, where.free])
    assert len(np.unique(everywhere, axis=0)) == len(everywhere)
    # 24 of the 128 places of a chip's tiles exist, on each chip of the block that is drawn.
    assert len(everywhere) == 24 * len(where.chips)
    assert spread.mesh is not None
    for core, (left, top), names in zip(spread.cores, where.corner, where.held, strict=True):
        assert core.tile is not None
        x, y = core.tile
        assert 0 < left - x - map_seats.GAP * (x // 8) < 1
        assert 0 < top - y - map_seats.GAP * (y // 4) < 1
        assert set(names) == {s.population for s in core.slices}
    assert where.full is not None
    assert float(where.full.max()) <= 1


def test_chips_hold_what_their_cores_hold(spread: Placement) -> None:
    where = map_seats.seats(spread, SMALL, most_cores=1)
    assert where.by_chip
    assert len(where.held) == spread.chips
    assert {n for names in where.held for n in names} == {"conv0", "conv1", "out"}
    assert len(where.free) == 0


def test_loads_are_those_that_the_mapper_counts(spread: Placement) -> None:
    tiles, chips = (map_seats.loads(spread, by_chip) for by_chip in (False, True))
    assert spread.cost is not None and tiles is not None and chips is not None
    assert tiles.worst == pytest.approx(spread.cost.worst_link)
    assert tiles.total == pytest.approx(spread.cost.packet_hops)
    assert chips.total == pytest.approx(spread.cost.chip_crossings)
    assert map_seats.loads(replace(spread, mesh=None), False) is None


@drawn
def test_the_command_writes_a_png(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run: Run = runner(capsys)
    target = tmp_path / "cores.png"
    outcome = run("map", model_file(tmp_path), "--plot", target, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["cores"] == 1
    assert f"wrote {target}" in outcome.err
    with Image.open(target) as image:
        assert (image.format, image.width) == ("PNG", 1800)


def test_without_matplotlib_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    outcome = runner(capsys)("map", tmp_path / "absent.h5", "--plot", tmp_path / "p.png")
    assert outcome.code == BackendError.exit_code
    assert "lapilli[plots]" in outcome.err
    assert not list(tmp_path.iterdir())
