"""How fast a world is imagined: frames per second, time shares, bytes, resident memory, import time.

    python benchmarks/step.py                                      measure; writes eval-speed/speed.json
    python benchmarks/step.py --out new --baseline speed.json      and compare with an earlier run

Every figure carries its unit and which way is better; ratios above 1 are better than the baseline.
"""

import tyro

from mirage_env.evaluation.speed import SpeedConfig, run, table


def main(config: SpeedConfig) -> None:
    print(table(run(config)))
    print(f"written to {config.out / 'speed.json'}")


if __name__ == "__main__":
    main(tyro.cli(SpeedConfig))
