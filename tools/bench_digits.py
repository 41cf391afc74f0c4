"""Pruning and quantization on handwritten digits: dense, one after the other, and joint (QASSO), as a table.

    python tools/bench_digits.py [--json FILE] [--network N] [--seed S] [--method M] [--quick]

Real scans of digits (scikit-learn's; 1347 to train on, 450 to test on), a ResNet-20 and a small vision
transformer, three seeds. All methods train for 30 epochs with the same batches. Accuracy is that of the
lowered ONNX file under onnxruntime; parameters, MACs and BOPs (MACs x weight bits x activation bits; 32 x 32
for floats) are relative to the dense network, so are the speedup of one image, and the CPU time of training,
whose epochs are trained in turn with the dense network's, on one thread; by stage too, since it falls as
units go.

With --json, results are added to the file as they come; what is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from getac.plans.plan import versions
from tools.benchmark import machine, rounded
from tools.digits.data import Images, load_digits
from tools.digits.measuring import Dense, measure
from tools.digits.methods import METHODS, Job, Trainee, dense
from tools.digits.networks import NETWORKS
from tools.digits.results import Result, figures, read, table, write
from tools.digits.settings import QUICK, SETTINGS, Setting
from tools.digits.training import in_turn, logits_of

__all__ = ["main"]

SEEDS = (0, 1, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all targets are met (or with --quick), else 1."""
    options = parse(arguments)
    torch.set_num_threads(1)
    results = read(options.json) if options.json else []
    more = {"machine": machine(), "versions": dict(versions())}
    for network in options.network:
        setting = (QUICK if options.quick else SETTINGS)[network]
        for seed in options.seed:
            done = {one.method for one in results if (one.network, one.seed) == (network, seed)}
            wanted = [method for method in options.method if method not in done]
            for result in train(setting, wanted, seed, say):
                results.append(result)
                if options.json:
                    write(options.json, results, {**more, "figures": rounded(figures(results))})
    found = figures(results)
    print(table(results))
    print(json.dumps(rounded(found), indent=1))
    passed = all(one["passed"] for part in found.values() for one in part.values() if is_judged(one))
    return 0 if options.quick or passed else 1


def is_judged(figure: Any) -> bool:
    return isinstance(figure, dict) and "passed" in figure


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results are read from it and added to it")
    parser.add_argument("--network", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="few images and epochs: the form alone")
    return parser.parse_args(arguments)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def train(
    setting: Setting, methods: Sequence[str], seed: int, say: Callable[[str], None]
) -> Iterator[Result]:
    """Trains a network by some methods, all of them in turn, from the same numbers."""
    images, test = load_digits()
    images = images[: setting.training.samples]
    teacher = teach(setting, images, seed, say) if setting.goal.distill else None
    trainees = {name: METHODS[name](job_of(setting, images, seed, teacher)) for name in methods}
    say(f"{setting.network}, seed {seed}: {', '.join(methods) or 'nothing left to train'}")
    for _ in in_turn([one.run for one in trainees.values()], setting.training.epochs, say):
        pass
    base = sum(trainees["dense"].run.seconds) if "dense" in trainees else None
    with TemporaryDirectory(prefix="getac-digits-") as folder:
        reference = Dense.of(job_of(setting, images, seed), Path(folder) / "dense.onnx")
        for name, one in trainees.items():
            path = Path(folder) / f"{name}.onnx"
            measured = measure(path, one.write(path), reference, test)
            ratio = sum(one.run.seconds) / base if base else None
            tricks = setting.goal.tricks if name != "dense" else "none"
            say(f"{name}: {measured.accuracy:.4f} at {measured.bops:.2%} BOPs")
            yield Result(setting.network, name, seed, measured, one.run.seconds, ratio, tricks)


def job_of(setting: Setting, images: Images, seed: int, teacher: Any = None) -> Job:
    torch.manual_seed(seed)
    return Job(NETWORKS[setting.network](), images, setting, seed, teacher)


def teach(setting: Setting, images: Images, seed: int, say: Callable[[str], None]) -> torch.Tensor:
    """The answers of a dense network that was trained before; its time is not counted."""
    taught: Trainee = dense(job_of(setting, images, seed))
    say("a teacher")
    for _ in in_turn([taught.run], setting.training.epochs, say):
        pass
    return logits_of(taught.run.model, images.images)


if __name__ == "__main__":
    sys.exit(main())
