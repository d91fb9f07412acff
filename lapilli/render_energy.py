"""The estimate as tables: bands, what they rest on, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lapilli.render import UNCALIBRATED, joules, table
from lapilli.terminal import plain

Report = dict[str, Any]


def estimate(report: Report) -> Iterator[RenderableType]:
    """Energy and time of one inference, the ANN beside it, sources, and what is not counted."""
    e, where = report["estimate"], report["data"]
    # A figure that no silicon has confirmed carries a star wherever it stands.
    star = "" if e["calibrated"] else "*"
    yield _energy(e, f"{where['source']}, {where['images']} images", star)
    yield _processor(e)
    yield _layers(e, star)
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
        "dynamic_pj": "dynamic energy, all layers",
    }
    for key, name in names.items():
        made.add_row(name, *_joules(e["total"][key]))
    for key, name in (("single", "one image alone"), ("streaming", "images back to back")):
        duration = e[key]
        made.add_section()
        made.add_row(f"{name}: time, {duration['steps']} steps", *_times(duration["time_us"]))
        standing = ("chip_static_pj", "chip_running_pj", "busy_cores_pj", "idle_access_pj")
        made.add_row("  static, running, busy cores, idle access", *_summed(duration, standing))
        made.add_row("  total energy", *_joules(duration["total_pj"]))
    made.add_section()
    made.add_row(f"cores, chips: {e['cores']}, {e['chips']}", "", "", "")
    limit = "the shortest step observed" if e["bottleneck"] is None else e["bottleneck"]
    made.add_row(f"step time, set by {plain(limit)}", *_times(e["step_time_us"]))
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


def _times(band: Report) -> tuple[str, ...]:
    return tuple(f"{band[key]:,.4g} us" for key in ("low", "mid", "high"))


def _summed(duration: Report, keys: tuple[str, ...]) -> tuple[str, str, str]:
    low, mid, high = (sum(duration[k][part] for k in keys) for part in ("low", "mid", "high"))
    return joules(low), joules(mid), joules(high)
