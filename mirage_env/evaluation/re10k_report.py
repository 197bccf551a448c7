"""Records of RealEstate10K clips to numbers and a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mirage_env.evaluation.metrics import Estimate, estimate, mean
from mirage_env.evaluation.published_figures import RE10K, RE10K_COLUMNS, published_table
from mirage_env.evaluation.report import markdown

METRICS = ("psnr", "ssim", "lpips")
KINDS = {
    "seen_psnr": "PSNR on cells the memory knew, dB",
    "unseen_psnr": "PSNR on cells it did not know, dB",
    "seen": "share of pixels in cells it knew",
    "revisit_psnr": "coming back against what was shown on the way out, PSNR, dB",
    "same_depth": "share of pixels on which the ends of successive chunks agree in depth within 10 %",
    "reprojection": "by which these pixels miss themselves there and back, pixels",
}


def summarise(used: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Means and standard errors over clips; curves by frame; and which clips were left out, with the reason."""
    measured = [m for m in METRICS if used and m in used[0]["frames"]]
    figures = {m: estimate(mean(r["frames"][m]) for r in used) for m in measured}
    figures |= {f"{m}_c": estimate(r["closed"][m] for r in used) for m in measured}
    for name in KINDS:
        figures[name] = estimate(r[name] for r in used)
    scales = [r["scale"] for r in used]
    return {
        "clips": len(used),
        "left_out": dict(left_out),
        "scale": {
            "fitted": sum("gain" in s for s in scales),
            "not_found": [r["clip"] for r in used if not r["scale"].get("found", True)],
            "metres": estimate(s["metres"] for s in scales),
        },
        "figures": figures,
        "by_frame": {m: [estimate(x) for x in _frames(used, m)] for m in measured},
        "by_chunk": {m: _chunks(used, m) for m in measured},
        "records": used,
    }


def table(results: Mapping[str, Any]) -> str:
    """Everything measured, as Markdown, and what others published apart from it."""
    figures, settings = results["figures"], results["settings"]
    height, width = results["image_size"]
    ours = (f"`{results['model']}`", *(_cell(figures.get(m)) for m in (*METRICS, *(f"{m}_c" for m in METRICS))))
    parts = [
        "# Clips in RealEstate10K's layout",
        f"{results['clips']} clips of the split `{settings['split']}` of `{results['data']}`, {settings['chunks']} "
        f"chunks out and as many back, {height} x {width} pixels, {results['frames_per_second']:g} frames/s; opened "
        "from the first frame, depth estimated. Mean ± standard error over clips; a clip's figure is the mean over its "
        "frames. `_C`: the last frame after coming back against the true first frame. "
        f"LPIPS: {'not measured' if results['lpips'] == 'none' else results['lpips']}.",
        markdown(("measured here", *RE10K_COLUMNS), [ours]),
        published_table(RE10K, RE10K_COLUMNS),
        "The published rows are other models on RealEstate10K itself, with selections of clips, sizes and lengths of "
        "their own: they say how far the field is, not who is better.",
        markdown(("", "measured here"), [(label, _cell(figures[name])) for name, label in KINDS.items()]),
        "## By chunk",
        markdown(
            ("chunk", *results["by_chunk"]),
            [
                (str(i + 1), *(_cell(found[i]) for found in results["by_chunk"].values()))
                for i in range(len(next(iter(results["by_chunk"].values()), [])))
            ],
        ),
        "## Notes",
        "\n".join(f"- {note}" for note in _notes(results)),
    ]
    return "\n\n".join(parts) + "\n"


def _notes(results: Mapping[str, Any]) -> Iterable[str]:
    scale, left_out = results["scale"], results["left_out"]
    if scale["fitted"]:
        yield (
            f"Scale: fitted per clip to the depth of its first frame, on average {scale['metres']} metres per unit; "
            f"not observable, and left at 1, in {len(scale['not_found'])} of {scale['fitted']} clips."
        )
    else:
        yield f"Scale: given, {results['settings']['scale']} metres per unit."
    if left_out:
        yield f"Left out: {len(left_out)} clips, the first because {next(iter(left_out.values()))}."


def _frames(records: Sequence[Mapping[str, Any]], metric: str) -> Iterable[Sequence[float]]:
    return zip(*(r["frames"][metric] for r in records), strict=True)


def _chunks(records: Sequence[Mapping[str, Any]], metric: str) -> list[Estimate]:
    chunks = sorted(set(records[0]["chunk"]))
    return [
        estimate(mean(x for x, at in zip(r["frames"][metric], r["chunk"], strict=True) if at == chunk) for r in records)
        for chunk in chunks
    ]


def _cell(value: Estimate | None) -> str:
    if value is None or not value.count:
        return "not measured"
    digits = 2 if abs(value.mean) >= 2.0 else 3
    error = f" ± {value.error:.{digits}f}" if value.count > 1 else ""
    return f"{value.mean:.{digits}f}{error}"
