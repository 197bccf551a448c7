"""How fast a world is imagined: frames per second, time shares, bytes, resident memory, import time.

    python benchmarks/step.py                                      measure; writes eval-speed/speed.json
    python benchmarks/step.py --out new --baseline speed.json      and compare with an earlier run

Every figure carries its unit and which way is better; ratios above 1 are better than the baseline.
"""

from pathlib import Path

import tyro

from mirage_env.evaluation.speed import SpeedConfig, run


def main(config: SpeedConfig) -> None:
    results = run(config)
    ratios = results.get("against_baseline", {})
    for name, figure in results["figures"].items():
        against = f"   {ratios[name]:.2f} x baseline" if name in ratios else ""
        print(f"{name:20s} {figure['value']:10.4g}  {figure['unit']} ({figure['better']} is better){against}")
    for part, share in results["time_shares"].items():
        print(f"  {part:18s} {100 * share:6.1f} % of a step")
    print(f"written to {Path(config.out) / 'speed.json'}")


if __name__ == "__main__":
    main(tyro.cli(SpeedConfig))
