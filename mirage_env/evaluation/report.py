"""Records of the closed loop to numbers and a table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirage_env.evaluation import oracle, plots
from mirage_env.evaluation.loop_walks import ALL, FAMILIES
from mirage_env.evaluation.metrics import PSNR_LIMIT, Estimate, estimate, mean, paired
from mirage_env.evaluation.variants import LABELS

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
    plots.revisits(out / "bars.png", results["loop"])
    plots.frames(out / "frames.png", [r for r in records if r["experiment"] == "loop"])
    if results["drift"]:
        plots.drift(out / "drift.png", results["drift"]["curve"])


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


def table(results: Mapping[str, Any]) -> str:
    """Everything measured, as Markdown."""
    config, loop, everything = results["config"], results["loop"], results["loop"][ALL]
    parts = [
        "# Closed loop",
        f"Model `{results['models']['full']}`, {config['worlds']} worlds of the test split, {len(FAMILIES)} path "
        f"families, {config['chunks']} chunks each; opened from one image, depth estimated. Mean ± standard error over "
        "worlds; movers of both frames masked. Seen cells are those the full model's memory knew. The simulator's own "
        "row is what its clock (shadows of movers) allows; with time frozen it repeats itself exactly.",
        f"## Coming back, {ALL}",
        markdown(("", *COLUMNS.values()), _rows(everything, COLUMNS)),
    ]
    short = {k: COLUMNS[k] for k in ("first_psnr", "first_ssim", "truth_psnr", "truth_ssim", "then_psnr")}
    for family in FAMILIES:
        parts += [f"### {family}", markdown(("", *short.values()), _rows(loop[family], short))]
    parts += [
        "## Paired differences, revisit against first visit, dB",
        _paired_table(results["paired"], "first_psnr"),
        "## Paired differences, revisit against simulator, dB",
        _paired_table(results["paired"], "truth_psnr"),
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
    bars = [(b["what"], b["bar"], str(b["measured"]), _yes(b["met"])) for b in results["bars"]]
    parts += ["## Notes", "\n".join(f"- {note}" for note in results["notes"])]
    return "\n\n".join([*parts, "## Acceptance", markdown(("bar", "allowed", "measured", "met"), bars)]) + "\n"


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
    """Bars that the model has to reach."""
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


def _paired_table(differences: Mapping[str, Mapping[str, Mapping[str, Estimate]]], key: str) -> str:
    """The full model minus each rival, by family."""
    pairs = [pair for pair in differences[ALL] if not pair.endswith(("simulator", "full"))]
    return markdown(("", *differences), [(p, *(str(found[p][key]) for found in differences.values())) for p in pairs])


def _cell(key: str, value: Estimate) -> str:
    if key.endswith("ssim") and value.count:
        return f"{value.mean:.3f} ± {value.error:.3f}" if value.count > 1 else f"{value.mean:.3f}"
    if value.mean == PSNR_LIMIT:
        return "exact"
    return str(value) if value.count else "-"


def _yes(met: bool | None) -> str:
    return "not measured" if met is None else "yes" if met else "**no**"
