"""The estimate as tables: bands, what they rest on, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lapilli.render import UNCALIBRATED, joules, table
from lapilli.terminal import plain

Report = dict[str, Any]
_PARTS = {
    "chip_static_pj": "static power of the chips",
    "chip_running_pj": "x86 cores and mesh running",
    "busy_cores_pj": "cores in use",
    "idle_access_pj": "access to waiting neurons",
    "total_pj": "total energy",
    "board_total_pj": "total energy of the board",
}
_TRAFFIC = {
    "packets": "packets",
    "host_packets": "of these from the host",
    "east_west": "steps between tiles, east or west",
    "north_south": "steps between tiles, north or south",
    "chip_crossings": "borders between chips crossed",
    "relays": "neurons that are relays",
}
_STEP = {
    "core_us": "a step: the busiest core",
    "mesh_us": "a step: the busiest link",
    "barrier_us": "a step: the barrier after either",
    "floor_us": "a step: the shortest one observed",
}
_FIGURES = {
    "total.dynamic_pj": "dynamic energy, all layers",
    "step_time_us": "step time",
    "single.total_pj": "total energy, one image alone",
    "streaming.total_pj": "total energy, images back to back",
}


def estimate(report: Report) -> Iterator[RenderableType]:
    """Energy and time of one inference, the ANN beside it, sources, and what is not counted."""
    e, where = report["estimate"], report["data"]
    # A figure that no silicon has confirmed carries a star wherever it stands.
    star = "" if e["calibrated"] else "*"
    yield _energy(e, f"{where['source']}, {where['images']} images", star)
    yield _processor(e)
    yield _devices(e)
    if e["placement"] is not None:
        yield _placement(e, star)
    yield _layers(e, star)
    yield _events(report["events"])
    if "neurobench" in report:
        yield _neurobench(report["neurobench"])
    yield _uncertainty(e, star)
    yield _sources(e)
    yield "Assumed:\n" + "\n".join(f"  - {plain(line)}" for line in e["assumptions"])
    yield "Not counted:\n" + "\n".join(f"  - {plain(line)}" for line in e["not_counted"])


def _energy(e: Report, data: str, star: str) -> Table:
    made = table(
        f"One inference on {e['title']}, counted on {data}",
        ("", f"low{star}", f"mid{star}", f"high{star}"),
        caption=UNCALIBRATED if star else "",
    )
    names = {
        "synops_pj": "synaptic operations",
        "neuron_updates_pj": "neuron updates",
        "spikes_pj": "spikes",
        "input_pj": "analog input",
    }
    if e["placement"] is not None:
        names |= {"spikes_pj": "spikes and packets", "hops_pj": "hops of packets"}
    names["dynamic_pj"] = "dynamic energy, all layers"
    for key, name in names.items():
        made.add_row(name, *_joules(e["total"][key]))
    for key, name in (("single", "one image alone"), ("streaming", "images back to back")):
        duration = e[key]
        made.add_section()
        made.add_row(f"{name}: time, {duration['steps']} steps", *_times(duration["time_us"]))
        for part, text in _PARTS.items():
            # The ends of bands do not add up: each part has its own.
            if duration[part] is not None and duration[part]["mid"] > 0:
                made.add_row(f"  {text}", *_joules(duration[part]))
        made.add_row("  energy times time", *_energy_delay(duration["energy_delay_pj_us"]))
    made.add_section()
    made.add_row(f"cores, chips: {e['cores']}, {e['chips']}", "", "", "")
    made.add_row(f"step time, set by {plain(_limit(e))}", *_times(e["step_time_us"]))
    return made


def _limit(e: Report) -> str:
    """What decides how long a step takes."""
    if e["placement"] is not None and e["placement"]["decided_by"] == "mesh":
        return "the busiest link"
    return "the shortest step observed" if e["bottleneck"] is None else str(e["bottleneck"])


def _placement(e: Report, star: str) -> Table:
    placed = e["placement"]
    made = table(
        f"Placed on {e['cores']} cores of {e['chips']} chip(s), for {placed['objective']}",
        ("one inference", ""),
        caption="-: the profile states no mesh, or no time of a hop",
    )
    for key, name in _TRAFFIC.items():
        made.add_row(name, _count(placed[key]))
    for key, name in _STEP.items():
        band = placed[key]
        made.add_row(f"{name}{star}", "-" if band is None else _times(band)[1])
    return made


def _processor(e: Report) -> Table:
    made = table(
        f"The same work on {e['reference']}, arithmetic only",
        ("", "operations", "int8 low", "int8 mid", "int8 high", "fp32 mid"),
    )
    for key, name in (("ann_total", "the ANN"), ("reference_snn_total", "the spiking network")):
        cost = e[key]
        operations = cost["macs"] + cost["accumulates"]
        fp32 = joules(cost["fp32_pj"]["mid"])
        made.add_row(name, f"{operations:,.0f}", *_joules(cost["int8_pj"]), fp32)
    return made


def _devices(e: Report) -> Table:
    made = table(
        "The same work by the table of keras-spiking: two constants per device, quoted",
        ("device", "as", "synops", "updates", "low", "mid", "high"),
        text=2,
    )
    for device in e["devices"]:
        counts = (f"{device[key]:,.0f}" for key in ("synops", "neuron_updates"))
        way = "spikes" if device["spiking"] else "the ANN"
        made.add_row(device["title"], way, *counts, *_joules(device["energy_pj"]))
    return made


def _events(events: Report) -> Table:
    made = table(
        f"Events of one image: mean of {events['images']}, and percentiles",
        ("layer", "spikes", "MACs", "synops", "5 %", "95 %", "inhibitory", "updates", "idle"),
        caption="MACs: of the analog input; 5 % and 95 %: of the synops; -: not counted",
    )
    for row in (*events["layers"], events["total"]):
        synops = row["synops"]
        made.add_row(
            plain(row["name"]),
            *(f"{value:,.0f}" for value in _means(row)),
            *(f"{synops[key]:,}" for key in ("p5", "p95")),
            *map(_count, (row["synops_inhibitory"], row["neuron_updates"], row["updates_idle"])),
        )
    return made


def _means(row: Report) -> Iterator[float]:
    return (row[key]["mean"] for key in ("spikes", "input_macs", "synops"))


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _neurobench(metrics: Report) -> Table:
    made = table("NeuroBench, algorithm track", ("metric", ""))
    for name, value in metrics.items():
        for key, number in value.items() if isinstance(value, dict) else ((name, value),):
            text = f"{number:.4f}" if "Sparsity" in key else f"{number:,.0f}"
            made.add_row(key if key == name else f"{name}: {key}", text)
    return made


def _uncertainty(e: Report, star: str) -> Table:
    found = e["uncertainty"]
    made = table(
        "What makes the bands wide",
        ("figure", "constant", "confidence", "share of variance"),
        text=3,
        caption=f"a band holds {100 * found['within']:g} % of {found['draws']:,} draws",
    )
    for figure, name in _FIGURES.items():
        shares = [share for share in found["shares"] if share["figure"] == figure]
        for index, share in enumerate(shares[:3]):
            title = f"{name}{star}" if index == 0 else ""
            made.add_row(
                title, plain(share["key"]), share["confidence"], f"{100 * share['share']:.0f} %"
            )
    return made


def _layers(e: Report, star: str) -> Table:
    made = table(
        "Dynamic energy per layer",
        ("layer", f"low{star}", f"mid{star}", f"high{star}"),
        caption=UNCALIBRATED if star else "",
    )
    for layer in e["layers"]:
        made.add_row(plain(layer["name"]), *_joules(layer["dynamic_pj"]))
    return made


def _sources(e: Report) -> Table:
    made = table("Constants", ("key", "value", "unit", "confidence", "source"), text=5)
    for used in e["sources"]:
        keys = ("key", "value", "unit", "confidence", "source")
        made.add_row(*(plain(used[key]) for key in keys))
    return made


def _joules(band: Report) -> tuple[str, str, str]:
    return joules(band["low"]), joules(band["mid"]), joules(band["high"])


def _energy_delay(band: Report) -> tuple[str, ...]:
    return tuple(f"{band[key] * 1e-6:,.4g} uJ us" for key in ("low", "mid", "high"))


def _times(band: Report) -> tuple[str, ...]:
    return tuple(f"{band[key]:,.4g} us" for key in ("low", "mid", "high"))
