"""Records of the closed loop to numbers, a table, plots and contact sheets."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.evaluation import oracle
from mirage_env.evaluation.metrics import PSNR_LIMIT, Estimate, estimate, mean, paired
from mirage_env.evaluation.paths import FAMILIES
from mirage_env.evaluation.variants import LABELS

ALL = "all families"
COLUMNS = {
    "first_psnr": "revisit against first visit, dB",
    "first_ssim": "SSIM",
    "first_seen_psnr": "on seen cells, dB",
    "truth_psnr": "revisit against simulator, dB",
    "truth_ssim": "SSIM",
    "truth_seen_psnr": "on seen cells, dB",
    "then_psnr": "against simulator, time frozen, dB",
}
NEW_VIEWS = {"new_seen_psnr": "seen cells, dB", "new_unseen_psnr": "unseen cells, dB", "new_psnr": "all cells, dB"}
SHEET_COLUMNS = 9
MIB = 2.0**20
Record = dict[str, Any]
Figures = dict[str, float]


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Means and standard errors over worlds, paired differences, and how the bars are met."""
    loops = [r for r in records if r["experiment"] == "loop"]
    table = {family: _by_variant(_of(loops, family)) for family in (*FAMILIES, ALL)}
    results: dict[str, Any] = {
        "loop": {
            family: {name: _estimates(worlds.values()) for name, worlds in variants.items()}
            for family, variants in table.items()
        },
        "paired": {
            family: {f"full - {name}": _differences(variants["full"], worlds) for name, worlds in variants.items()}
            for family, variants in table.items()
            if "full" in variants
        },
        "cost": _costs(loops),
        "drift": _drift([r for r in records if r["experiment"] == "drift"]),
        "oracle": _estimates(r["figures"] for r in records if r["experiment"] == "oracle"),
    }
    results["bars"] = _bars(results)
    return results


def write(out: Path, results: Mapping[str, Any], records: Sequence[Record]) -> None:
    """`results.json`, `table.md` and the plots."""
    (out / "results.json").write_text(json.dumps(without_nan(results), indent=1) + "\n")
    (out / "table.md").write_text(table(results))
    _plot_bars(out / "bars.png", results)
    _plot_frames(out / "frames.png", records)
    if any(r["experiment"] == "drift" for r in records):
        _plot_drift(out / "drift.png", results)


def without_nan(value: Any) -> Any:
    """Values for JSON: dataclasses as dictionaries, NaN as null."""
    if isinstance(value, Estimate):
        return without_nan(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(value: Any) -> Any:
    """JSON null back to NaN."""
    if isinstance(value, dict):
        return {k: with_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [with_nan(v) for v in value]
    return math.nan if value is None else value


def save_sheet(path: Path, rows: Sequence[NDArray[np.uint8]]) -> None:  # rows of [N, H, W, 3]
    """A contact sheet: one row of evenly spread frames per sequence, true above and imagined below."""
    chosen = np.linspace(0, len(rows[0]) - 1, min(SHEET_COLUMNS, len(rows[0]))).round().astype(int)
    gap = 2
    height, width = rows[0].shape[1:3]
    sheet = np.full((len(rows) * (height + gap) - gap, len(chosen) * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, frame in enumerate(row[chosen]):
            y, x = r * (height + gap), c * (width + gap)
            sheet[y : y + height, x : x + width] = frame
    Image.fromarray(sheet).save(path)


def table(results: Mapping[str, Any]) -> str:
    """Everything measured, as Markdown."""
    config, loop, everything = results["config"], results["loop"], results["loop"][ALL]
    parts = [
        "# Closed loop",
        f"Model `{results['models']['full']}`, {config['worlds']} worlds of the test split, {len(FAMILIES)} path "
        f"families, {config['chunks']} chunks each; opened from one image, depth estimated. Mean ± standard error over "
        "worlds; movers of both frames masked. Seen cells are those the full model's memory knew. The simulator's own "
        "row is what its clock (shadows of movers) allows; with time frozen it repeats itself exactly.",
        markdown(
            ("bar", "allowed", "measured", "met"),
            [(b["what"], b["bar"], str(b["measured"]), _yes(b["met"])) for b in results["bars"]],
        ),
        f"## Coming back, {ALL}",
        markdown(("", *COLUMNS.values()), _rows(everything, COLUMNS)),
    ]
    short = {k: COLUMNS[k] for k in ("first_psnr", "first_ssim", "truth_psnr", "truth_ssim", "then_psnr")}
    for family in FAMILIES:
        parts += [f"### {family}", markdown(("", *short.values()), _rows(loop[family], short))]
    differences = results["paired"]
    parts += [
        "## Paired differences, revisit against first visit, dB",
        markdown(
            ("", *differences),
            [
                (pair, *(str(differences[f][pair]["first_psnr"]) for f in differences))
                for pair in differences[ALL]
                if not pair.endswith(("simulator", "full"))
            ],
        ),
        "## Paired differences, revisit against simulator, dB",
        markdown(
            ("", *differences),
            [
                (pair, *(str(differences[f][pair]["truth_psnr"]) for f in differences))
                for pair in differences[ALL]
                if not pair.endswith(("simulator", "full"))
            ],
        ),
        "## New views in the first two chunks, against the simulator",
        markdown(("", *NEW_VIEWS.values()), [r for r in _rows(everything, NEW_VIEWS) if r[0] != LABELS["simulator"]]),
        "## Memory and time",
        markdown(
            ("", "coverage", "points per chunk", "bytes per chunk", "MiB per chunk, new ground", "seconds per chunk"),
            [
                (
                    LABELS[name],
                    f"{c['coverage']:.2f}",
                    f"{c['points_per_chunk']:.0f}",
                    f"{c['bytes_per_chunk']:.0f}",
                    f"{c['new_ground_mib']:.3f}",
                    f"{c['seconds_per_chunk']:.2f}",
                )
                for name, c in results["cost"].items()
            ],
        ),
    ]
    if drift := results["drift"]:
        first, last = drift["chunks"]
        parts += [
            "## Drift",
            markdown(
                (f"chunk {first}, dB", f"chunk {last}, dB", "falls by, dB", "worlds"),
                [(str(drift["first"]), str(drift["last"]), str(drift["fall"]), str(drift["fall"].count))],
            ),
        ]
    if figures := results["oracle"]:
        parts += [
            "## What is lost where",
            "True images and true depth written, time frozen, the same new views for every row, on cells that both "
            f"memories show (latent memory shows {figures['latent_seen']} of the cells, RGB memory "
            f"{figures['rgb_seen']}).",
            markdown(("", "PSNR, dB"), [(label, str(figures[row])) for row, label in oracle.ROWS.items()]),
        ]
    notes = "\n".join(f"- {note}" for note in results["notes"])
    return "\n\n".join([*parts, "## Notes", notes]) + "\n"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _of(loops: Iterable[Record], family: str) -> list[Record]:
    return [r for r in loops if family in (r["family"], ALL)]


def _by_variant(records: Iterable[Record]) -> dict[str, dict[int, Figures]]:
    """variant -> world -> figures, averaged over the families that are in the records."""
    found: dict[str, dict[int, list[Figures]]] = {}
    for r in records:
        found.setdefault(r["variant"], {}).setdefault(r["seed"], []).append(r["figures"])
    ordered = {name: found[name] for name in LABELS if name in found}
    return {
        name: {seed: {key: mean(f[key] for f in figures) for key in figures[0]} for seed, figures in worlds.items()}
        for name, worlds in ordered.items()
    }


def _estimates(worlds: Iterable[Figures]) -> dict[str, Estimate]:
    worlds = list(worlds)
    return {key: estimate(w[key] for w in worlds) for key in worlds[0]} if worlds else {}


def _differences(full: Mapping[int, Figures], other: Mapping[int, Figures]) -> dict[str, Estimate]:
    keys = next(iter(full.values())).keys()
    return {key: paired({w: f[key] for w, f in full.items()}, {w: f[key] for w, f in other.items()}) for key in keys}


def _costs(loops: Sequence[Record]) -> dict[str, Figures]:
    """Coverage, and growth of the memory per chunk: over all chunks, and on the way out (new ground)."""
    costs = {}
    for name in LABELS:
        records = [r for r in loops if r["variant"] == name and "bytes" in r]
        if not records:
            continue
        out = [r["bytes"][: len(r["bytes"]) // 2 + 1] for r in records if r["family"] == "out_and_back"]
        costs[name] = {
            "coverage": mean(mean(r["coverage"]) for r in records),
            "points_per_chunk": mean((r["points"][-1] - r["points"][0]) / (len(r["points"]) - 1) for r in records),
            "bytes_per_chunk": mean((r["bytes"][-1] - r["bytes"][0]) / (len(r["bytes"]) - 1) for r in records),
            "new_ground_mib": mean((b[-1] - b[0]) / (len(b) - 1) / MIB for b in out),
            "seconds_per_chunk": mean(r["seconds_per_chunk"] for r in records),
        }
    return costs


def _drift(records: Sequence[Record]) -> dict[str, Any]:
    """PSNR against the simulator per chunk, and how far it falls between two visits of the same poses."""
    if not records:
        return {}
    first, last = records[0]["compare"]
    chunks = sorted(set(records[0]["chunk"]))
    per_world = {
        r["seed"]: {
            c: mean(p for p, chunk in zip(r["frame_psnr"], r["chunk"], strict=True) if chunk == c) for c in chunks
        }
        for r in records
    }
    return {
        "chunks": (first, last),
        "first": estimate(w[first] for w in per_world.values()),
        "last": estimate(w[last] for w in per_world.values()),
        "fall": estimate(w[first] - w[last] for w in per_world.values()),
        "curve": {c: estimate(w[c] for w in per_world.values()) for c in chunks},
    }


def _bars(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the model has to reach."""
    everything, pairs = results["loop"].get(ALL, {}), results["paired"].get(ALL, {})
    bars = []

    def bar(what: str, allowed: str, measured: Any, met: bool) -> None:
        known = not (isinstance(measured, Estimate) and not measured.count)
        bars.append({"what": what, "bar": allowed, "measured": measured, "met": met if known else None})

    for name, allowed, least, errors in (
        ("no_memory", "at least +4 dB", 4.0, 0.0),
        ("paper", "above 0 by 2 standard errors", 0.0, 2.0),
        ("rgb", "above 0", 0.0, 0.0),
    ):
        if f"full - {name}" in pairs:
            gain = pairs[f"full - {name}"]["first_psnr"]
            margin = errors * gain.error if errors else 0.0
            what = f"revisit against first visit: {LABELS['full']} minus {LABELS[name]}, dB"
            bar(what, allowed, gain, gain.mean - margin > least)
    if "full" in everything:
        seen = everything["full"]["new_seen_psnr"]
        bar("new views on seen cells, dB", "at least 25.5", seen, seen.mean >= 25.5)
        gain = pairs["full - bare"]["new_seen_psnr"]
        bar("new views on seen cells, above the bare readout, dB", "at least 3.5", gain, gain.mean >= 3.5)
        grown = results["cost"]["full"]["new_ground_mib"]
        bar("cache on new ground, MiB per chunk", "at most 0.1", round(grown, 4), grown <= 0.1)
    if drift := results["drift"]:
        first, last = drift["chunks"]
        bar(f"drift, chunk {last} against {first}, dB", "falls by at most 2", drift["fall"], drift["fall"].mean <= 2.0)
    return bars


def _rows(variants: Mapping[str, Mapping[str, Estimate]], columns: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [(LABELS[name], *(_cell(key, figures[key]) for key in columns)) for name, figures in variants.items()]


def _cell(key: str, value: Estimate) -> str:
    if key.endswith("ssim") and value.count:
        return f"{value.mean:.3f} ± {value.error:.3f}" if value.count > 1 else f"{value.mean:.3f}"
    if value.mean == PSNR_LIMIT:
        return "exact"
    return str(value) if value.count else "-"


def _yes(met: bool | None) -> str:
    return "not measured" if met is None else "yes" if met else "**no**"


def _axes(columns: int, width: float) -> tuple[Any, Any]:
    # The object interface: no window, no global state, and half a second is paid only here.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _plot_bars(path: Path, results: Mapping[str, Any]) -> None:
    """Revisit PSNR per variant and family, with standard errors."""
    figure, axes = _axes(2, 12.0)
    for axis, key, title in zip(
        axes, ("first_psnr", "truth_psnr"), ("revisit against first visit", "revisit against simulator"), strict=True
    ):
        names = [n for n in results["loop"][ALL] if n != "simulator"]
        for i, name in enumerate(names):
            found = [results["loop"][family][name][key] for family in (*FAMILIES, ALL)]
            place = np.arange(len(found)) + 0.8 * ((i + 0.5) / len(names) - 0.5)
            errors = [0.0 if math.isnan(e.error) else e.error for e in found]
            axis.bar(place, [e.mean for e in found], 0.75 / len(names), yerr=errors, label=LABELS[name])
        axis.set_xticks(range(len(FAMILIES) + 1), [*FAMILIES, ALL])
        axis.set_ylabel("PSNR, dB")
        axis.set_title(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def _plot_frames(path: Path, records: Sequence[Record]) -> None:
    """PSNR against the simulator, frame by frame."""
    figure, axes = _axes(len(FAMILIES), 14.0)
    for axis, family in zip(axes, FAMILIES, strict=True):
        for name in LABELS:
            curves = [
                r["frame_psnr"]
                for r in records
                if r["experiment"] == "loop" and (r["family"], r["variant"]) == (family, name)
            ]
            if curves and name != "simulator":
                values = [mean(frame) for frame in zip(*curves, strict=True)]
                axis.plot(np.arange(1, len(values) + 1), values, label=LABELS[name])
        axis.set_title(family)
        axis.set_xlabel("frame")
        axis.set_ylabel("PSNR against simulator, dB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def _plot_drift(path: Path, results: Mapping[str, Any]) -> None:
    """PSNR against the simulator, chunk by chunk, on a walk of several laps."""
    curve = results["drift"]["curve"]
    figure, axes = _axes(1, 7.0)
    errors = [0.0 if math.isnan(e.error) else e.error for e in curve.values()]
    axes[0].errorbar(list(curve), [e.mean for e in curve.values()], errors, marker="o", capsize=3)
    axes[0].set_xlabel("chunk")
    axes[0].set_ylabel("PSNR against simulator, dB")
    figure.savefig(path, dpi=110)
