"""Reports as tables for people; the same dicts that `--json` prints, nothing more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table

from lapilli.terminal import plain

Report = dict[str, Any]
UNCALIBRATED = "* modelled: these constants are not calibrated against silicon"


def table(title: str, columns: Sequence[str], *, text: int = 1, caption: str = "") -> Table:
    """A plain table whose first `text` columns are text and the others numbers."""
    made = Table(
        title=plain(title),
        caption=caption or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index < text else "right", overflow="fold")
    return made


def percent(accuracy: Report | None) -> str:
    """98.10 % (981 of 1000)."""
    if accuracy is None:
        return "-"
    return f"{100 * accuracy['fraction']:.2f} % ({accuracy['correct']} of {accuracy['images']})"


_UNITS = (("J", 1e12), ("mJ", 1e9), ("uJ", 1e6), ("nJ", 1e3), ("pJ", 1.0))


def joules(pj: float) -> str:
    """Picojoules in the unit that reads best: 1.5 uJ."""
    unit, size = _unit(pj)
    return f"{_digits(pj / size)} {unit}"


def band(values: Report) -> tuple[str, str]:
    """The middle, and "low .. high" in the same unit."""
    unit, size = _unit(values["mid"])
    low, mid, high = (_digits(values[key] / size) for key in ("low", "mid", "high"))
    return f"{mid} {unit}", f"{low} .. {high} {unit}"


def _unit(pj: float) -> tuple[str, float]:
    return next((unit for unit in _UNITS if pj >= unit[1]), _UNITS[-1])


def _digits(value: float) -> str:
    """Three digits, but no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def run(report: Report) -> Iterator[RenderableType]:
    """What `lapilli run` found."""
    where, events, agreement = report["data"], report["events"], report["agreement"]
    made = table(
        f"{where['source']}, {where['split']} split, {where['images']} images, "
        f"{report['backend']} backend, {report['seconds']:.2f} s",
        ("measure", "value"),
        text=2,
    )
    for output in report["outputs"]:
        made.add_row(f"output {plain(output['name'])}", _output(output, report["readout"]))
    scored, maps = report["scored"], report["segmentation"]
    if maps is not None:
        right = f"{100 * maps['fraction']:.2f} % ({maps['correct']:,} of {maps['pixels']:,})"
        made.add_row("pixels of the right class", right)
        made.add_row(f"mean IoU of {maps['classes']} classes", f"{100 * maps['mean_iou']:.2f} %")
    else:
        made.add_row("accuracy", percent(report["accuracy"]))
    same = "class" if agreement["of"] == "classes" else "outputs"
    made.add_row(
        f"same {same} as the {agreement['with']}",
        f"{agreement['equal']} of the first {agreement['images']}" if agreement["images"] else "-",
    )
    names = {
        "spikes_per_image": "spikes per image",
        "synops_per_image": "synaptic operations per image",
        "input_macs_per_image": "multiply-accumulates of the input per image",
        "neuron_updates_per_image": "neuron updates per image",
    }
    for key, name in names.items():
        made.add_row(name, "-" if events is None else f"{events[key]:,.1f}")
    made.add_row("input values out of range, clipped", str(report["input_values_clipped"]))
    if (stop := report["early_stop"]) is not None:
        row = f"{stop['mean_steps']:.1f} ({stop['least_steps']} to {stop['most_steps']})"
        made.add_row("steps until the answer was clear, mean", row)
    if (silence := report["silence"]) is not None:
        row = f"{silence['mean_steps']:.1f} ({silence['least_steps']} to {silence['most_steps']})"
        made.add_row("steps until silence, mean", row)
    yield made
    if scored["reason"] is not None:
        yield f"Nothing is compared with labels: {plain(scored['reason'])}."
    if events is None:
        yield f"The {report['backend']} backend does not count events; the reference engine does."


def _output(output: Report, readout: str | None) -> str:
    """21 x 64 x 64, softmax, 0.001 .. 0.92."""
    head = f", {readout or output['head']}".removesuffix(", none")
    shape = " x ".join(str(n) for n in output["shape"]) or "a number"
    return f"{shape}{head}, {output['min']:.4g} .. {output['max']:.4g}"


def verification(report: Report) -> Iterator[RenderableType]:
    """Every equality, and the first difference."""
    made = table("Equalities", ("equality", "compared", "equal", ""))
    for row in report["equalities"]:
        holds = row["equal"] == row["compared"]
        made.add_row(
            plain(row["equality"]),
            f"{row['compared']:,}",
            f"{row['equal']:,}",
            "holds" if holds else "BROKEN",
        )
    yield made
    if report["first_difference"] is not None:
        yield f"First difference: {plain(report['first_difference'])}"
    yield "Every equality holds." if report["ok"] else "An equality is broken."


def compiled(report: Report) -> Iterator[RenderableType]:
    """The summary after `lapilli compile`."""
    sums, origin = report["totals"], report["provenance"]
    widest = max(report["populations"], key=lambda p: p["v_bits"])
    made = table(f"Compiled {report['artifact']['path']}", ("", "value"), text=2)
    rows = {
        "method": f"{origin['method']} {plain(_provenance('options', origin['options']))}",
        "populations, neurons": f"{sums['populations']}, {sums['neurons']:,}",
        "connections": f"{sums['connections']}, of which {sums['compact_connections']} compact and "
        f"{sums['connections'] - sums['compact_connections']} sparse",
        "synapses, stored weights": f"{sums['synapses']:,}, {sums['stored_weights']:,}",
        "steps per image, latency in steps": f"{report['steps']}, {report['latency_steps']}",
        "widest state, proven": f"{plain(widest['name'])}: {_range(widest['v'])}, "
        f"{widest['v_bits']} of {report['state_bits']} bits",
        "hash": report["artifact"]["hash"],
    }
    for name, value in rows.items():
        made.add_row(name, value)
    yield made
    if "search" in report:
        from lapilli.render_front import found

        yield from found(report["search"])


def _range(bounds: Sequence[int] | None) -> str:
    if bounds is None:
        return "-"
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}..{bounds[1]}"


def inspection(report: Report) -> Iterator[RenderableType]:
    """Everything that `lapilli inspect` shows."""
    origin = table(f"{report['artifact']['path']}", ("provenance", "value"), text=2)
    for key, value in report["provenance"].items():
        if key in ("rounding", "front"):  # a column of the populations, a table of its own
            continue
        origin.add_row(key, plain(_provenance(key, value)) or "-")
    origin.add_row("hash", report["artifact"]["hash"])
    yield origin
    columns = ("population", "model", "shape", "counts", "rounding", "from", "synapses")
    made = table("Populations", (*columns, "v, proven", "bits", "w bits", "step"), text=2)
    rounding = report["provenance"]["rounding"]
    for p in report["populations"]:
        made.add_row(
            plain(p["name"]),
            p["model"],
            "x".join(str(n) for n in p["shape"]),
            _range(p["counts"]),
            f"{100 * rounding[p['name']]:.1f} %" if p["name"] in rounding else "-",
            _forms(Counter(c["form"] for c in p["from"])),
            f"{p['synapses']:,}",
            _range(p["v"]),
            str(p["v_bits"]),
            "-" if p["weight_bits"] is None else str(p["weight_bits"]),
            str(p["first_step"]),
        )
    yield made
    models = ", ".join(f"{model} {m['neurons']:,}" for model, m in report["models"].items())
    yield f"Neurons by model: {models}; states of {report['state_bits']} bits."
    sums = report["totals"]
    yield (
        f"In all: {sums['neurons']:,} neurons, {sums['synapses']:,} synapses, "
        f"{sums['stored_weights']:,} stored weights."
    )
    compact = sums["compact_connections"]
    sparse = sums["connections"] - compact
    yield (
        f"Connections: {compact} of {sums['connections']} stay compact, "
        f"{sparse} {'is a sparse matrix' if sparse == 1 else 'are sparse matrices'} "
        f"({_forms(sums['forms'])})."
    )
    if rounding:
        yield "Rounding: root mean square error of counts, relative to the activity in calibration."
    steps, latency = _steps(report["steps"]), _steps(report["latency_steps"])
    interval = _steps(report["interval_steps"]).removeprefix("1 ")
    from lapilli.render_front import front

    yield from front(report["provenance"]["front"])
    yield f"Schedule: {steps} per image, the result after {latency}, a new image every {interval}."


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _forms(counts: Mapping[str, int]) -> str:
    """2 Conv, Sparse."""
    return ", ".join(f"{n} {form}" if n > 1 else form for form, n in counts.items()) or "-"


def _provenance(key: str, value: Any) -> str:
    if key == "ann_macs":
        return f"{sum(value.values()):,} in {len(value)} layers"
    if key == "outputs":
        return ", ".join(
            f"{o['name']} {tuple(o['shape'])}"
            + (f" {o['head']['kind']}" if o["head"]["kind"] != "none" else "")
            for o in value
        )
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return ", ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def profile_list(report: Report) -> Iterator[RenderableType]:
    """One line per built-in profile."""
    columns = ("name", "kind", "chips", "calibrated", "device")
    made = table("Hardware profiles", columns, text=5)
    for p in report["profiles"]:
        calibrated = "yes" if p["calibrated"] else "no"
        chips = "-" if p["chips"] is None else f"{p['chips']:,} x {plain(p['chip'])}"
        made.add_row(plain(p["name"]), p["kind"], chips, calibrated, plain(p["title"]))
    yield made


def profile(report: Report) -> Iterator[RenderableType]:
    """Every number with what is needed to trust it; a system's own apart from those of its chip."""
    calibrated = "calibrated" if report["calibrated"] else "not calibrated against silicon"
    yield _quantities(report, False, f"{report['name']}: {report['title']}, {calibrated}")
    if report["chip"] is not None:
        yield _quantities(report, True, f"From its chip, {report['chip']}")
    meanings = table("Confidences", ("confidence", "off by at most", "meaning"), text=3)
    for name, trust in report["confidences"].items():
        meanings.add_row(name, f"a factor of {trust['factor']:g}", trust["meaning"])
    yield meanings
    if report["unknown"]:
        yield f"Not known: {', '.join(report['unknown'])}"


def _quantities(report: Report, from_chip: bool, title: str) -> Table:
    made = table(title, ("key", "value", "unit", "confidence", "source"), text=5)
    made.columns[0].no_wrap = True
    for key, q in report["quantities"].items():
        if q["from_chip"] == from_chip:
            parts = (q[part] for part in ("value", "unit", "confidence", "source"))
            made.add_row(key, *map(plain, parts))
    return made
