"""A comparison as tables: what each network is, what it costs, and how it stands to the first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lapilli.compare_report import COSTS
from lapilli.render import UNCALIBRATED, band, table
from lapilli.render_front import levels
from lapilli.terminal import plain

Report = dict[str, Any]
_KIB = 1024
_S_PER_US = 1e-6


def comparison(report: Report) -> Iterator[RenderableType]:
    """Tables of `Comparison.as_dict` with the data set beside it."""
    rows = report["networks"]
    caption = "" if all(row["calibrated"] for row in rows) else UNCALIBRATED
    yield _accuracy(report, caption)
    yield _energy(rows, caption)
    yield _times(rows, caption)
    yield _size(rows)
    if len(rows) > 1:
        yield _beside(rows, caption)
    if report["front"]:
        against = COSTS[report["against"]].title
        front = ", ".join(plain(name) for name in report["front"])
        yield f"Pareto front, accuracy against {against}, the cheapest first: {front}."
    yield "\n".join(plain(note) for note in report["notes"])


def _accuracy(report: Report, caption: str) -> Table:
    where, against = report["data"], report["against"]
    measure = "accuracy" if report["measure"] is None else report["measure"]
    title = f"{where['source']}, {where['split']} split, {where['images']:,} images"
    columns = ("network", "method", "coding", "chip", "levels", "steps", measure)
    made = table(title, (*columns, COSTS[against].title, "band", "front"), text=4, caption=caption)
    for row in report["networks"]:
        score = "-" if row["score"] is None else f"{100 * row['score']:.2f} %"
        made.add_row(
            *(plain(row[key]) for key in ("name", "method", "coding", "profile")),
            levels(row["levels"]),
            f"{row['steps']:,}",
            score,
            *_cost(row, against),
            _mark(row, COSTS[against].figure is not None),
        )
    return made


def _mark(row: Report, drawn: bool) -> str:
    """On the front, and in how many draws of the constants."""
    if row["front_share"] is None:
        return "-"
    yes = "yes" if row["on_front"] else ""
    return f"{yes} {_share(row['front_share'])}".strip() if drawn else yes


def _share(value: float) -> str:
    """0 % and 100 % are said of no draw and of every one only.

    >>> _share(1.0), _share(0.999), _share(0.25), _share(0.001), _share(0.0)
    ('100 %', '>99 %', '25 %', '<1 %', '0 %')
    """
    if 0 < value < 0.01:
        return "<1 %"
    if 0.99 < value < 1:
        return ">99 %"
    return f"{100 * value:.0f} %"


def _cost(row: Report, against: str) -> tuple[str, str]:
    """What the front is drawn against, and its band; starred where no silicon confirmed it."""
    if against == "cores":
        return f"{row['cores']:,}", ""
    if against == "latency":
        return _time(row["latency_us"], _star(row))
    if against == "energy-delay":
        return _energy_delay(row)
    keys = {"streaming": "streaming_total_pj", "dynamic": "dynamic_pj"}
    return _starred(row, keys.get(against, "single_total_pj"))


def _energy(rows: list[Report], caption: str) -> Table:
    columns = ("network", "dynamic", "band", "one alone", "band", "back to back", "band")
    made = table(
        "Energy of an image: dynamic, of all layers; total, one image alone and back to back",
        columns,
        caption=caption,
    )
    for row in rows:
        keys = ("dynamic_pj", "single_total_pj", "streaming_total_pj")
        made.add_row(plain(row["name"]), *(text for key in keys for text in _starred(row, key)))
    return made


def _times(rows: list[Report], caption: str) -> Table:
    columns = ("network", "steps", "latency", "band", "images/s", "band", "energy times time")
    made = table(
        "Time: of one image alone, from first step to last; back to back; energy times time, alone",
        (*columns, "band"),
        caption=caption,
    )
    for row in rows:
        star, rate = _star(row), row["images_per_second"]
        made.add_row(
            plain(row["name"]),
            f"{row['latency_steps']:,}",
            *_time(row["latency_us"], star),
            "-" if rate is None else f"{rate['mid']:,.0f}{star}",
            "-" if rate is None else f"{rate['low']:,.0f} .. {rate['high']:,.0f}",
            *_energy_delay(row),
        )
    return made


def _size(rows: list[Report]) -> Table:
    columns = ("network", "neurons", "synapses", "cores", "chips", "spikes", "synops", "MACs")
    made = table(
        "Size, and events per image",
        (*columns, "file"),
        caption="MACs: of the analog input; -: not in a file",
    )
    for row in rows:
        size = row["file_bytes"]
        counts = ("neurons", "synapses", "cores", "chips", "spikes", "synops", "input_macs")
        made.add_row(
            plain(row["name"]),
            *(f"{row[key]:,.0f}" for key in counts),
            "-" if size is None else f"{size / _KIB:,.0f} KiB",
        )
    return made


def _beside(rows: list[Report], caption: str) -> Table:
    made = table(
        f"Beside {plain(rows[0]['name'])}: images of the same class, right only here, right only "
        "there; ratios",
        ("network", "same", "here", "there", "dynamic", "one alone", "back to back", "latency"),
        caption="ratios: middle and band, with the same draws of the constants for both"
        + (f"\n{caption}" if caption else ""),
    )
    for row in rows[1:]:
        found = row["first"]
        star = _star(row) or _star(rows[0])
        keys = ("same_class", "only_this", "only_first")
        ratios = ("dynamic_ratio", "single_ratio", "streaming_ratio", "latency_ratio")
        made.add_row(
            plain(row["name"]),
            *("-" if found[key] is None else f"{found[key]:,}" for key in keys),
            *(_ratio(found[key], star) for key in ratios),
        )
    return made


def _ratio(found: Report | None, star: str) -> str:
    """1.20* (1.10..1.31), or one number where constants do not matter."""
    if found is None:
        return "-"
    low, mid, high = (_factor(found[key]) for key in ("low", "mid", "high"))
    return mid + star if low == high else f"{mid}{star} ({low}..{high})"


def _factor(value: float) -> str:
    """0.75, 1.20, 21.9; small ones keep two digits.

    >>> _factor(0.745), _factor(1.2), _factor(21.93), _factor(0.0123)
    ('0.74', '1.20', '21.9', '0.012')
    """
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"


def _star(row: Report) -> str:
    return "" if row["calibrated"] else "*"


def _starred(row: Report, key: str) -> tuple[str, str]:
    middle, bounds = band(row[key])
    return middle + _star(row), bounds


def _time(found: Report, star: str) -> tuple[str, str]:
    unit, size = ("ms", 1e3) if found["mid"] >= 1e3 else ("us", 1.0)
    low, mid, high = (_digits(found[key] / size) for key in ("low", "mid", "high"))
    return f"{mid} {unit}{star}", f"{low} .. {high} {unit}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _energy_delay(row: Report) -> tuple[str, str]:
    found = {key: value * _S_PER_US for key, value in row["energy_delay_pj_us"].items()}
    middle, bounds = band(found)
    return f"{middle} s{_star(row)}", f"{bounds} s"
