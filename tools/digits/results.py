"""What has been measured so far, in a file that a sweep goes on with, and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from tools.benchmark import Figure
from tools.digits.measuring import Measured
from tools.digits.settings import SETTINGS, Setting
from tools.digits.stages import epoch_ratios

__all__ = ["Result", "figures", "read", "table", "write"]


@dataclass(frozen=True)
class Result:
    """One trained network.

    Args:
        seconds: CPU time of each epoch, on one thread.
        time_ratio: Their sum over that of the dense network, an epoch of which was trained in turn with
            each of these; None: none was.
        tricks: Which were on.
    """

    network: str
    method: str
    seed: int
    measured: Measured
    seconds: Sequence[float]
    time_ratio: float | None
    tricks: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.network, self.method, self.seed

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Result:
        return cls(**{**content, "measured": Measured(**content["measured"])})


def read(path: Path) -> list[Result]:
    """What a sweep has left so far; nothing where there is no file."""
    if not path.exists():
        return []
    return [Result.of_json(one) for one in json.loads(path.read_text())["results"]]


def write(path: Path, results: Iterable[Result], more: Mapping[str, Any]) -> None:
    content = {"results": [asdict(one) for one in results], **more}
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)


def figures(results: Sequence[Result], settings: Mapping[str, Setting] = SETTINGS) -> dict[str, Any]:
    """The means of the joint runs over seeds, held to their targets."""
    found = {}
    for name, setting in settings.items():
        mine = [one for one in results if (one.network, one.method) == (name, "joint")]
        if mine:
            ratios = [one.time_ratio for one in mine if one.time_ratio is not None]
            found[name] = {
                "seeds": sorted(one.seed for one in mine),
                "accuracy": Figure(
                    mean(one.measured.accuracy for one in mine), at_least=setting.accuracy
                ).as_json(),
                "bops": Figure(mean(one.measured.bops for one in mine), at_most=setting.bops).as_json(),
                **({"time_ratio": Figure(mean(ratios), at_most=1.3).as_json()} if ratios else {}),
                "epoch_ratios": ratios_by_stage(mine, results, setting),
            }
    return found


def ratios_by_stage(
    joint: Sequence[Result], results: Sequence[Result], setting: Setting
) -> Mapping[str, float]:
    """Stage -> the time of an epoch over that of the dense network's; the mean over seeds."""
    dense = {(one.network, one.seed): one for one in results if one.method == "dense"}
    pairs = [(one, dense[one.network, one.seed]) for one in joint if (one.network, one.seed) in dense]
    each = [epoch_ratios(one.seconds, other.seconds, setting.training) for one, other in pairs]
    return {stage: mean(one[stage] for one in each) for stage in each[0]} if each else {}


def table(results: Sequence[Result]) -> str:
    """The means over seeds, as text."""
    head = ("", "seeds", "accuracy", "parameters", "MACs", "BOPs", "bytes", "speedup", "time", "tricks")
    groups: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        groups.setdefault((one.network, one.method), []).append(one)
    rows = [head, *(row(f"{network} {method}", many) for (network, method), many in groups.items())]
    widths = [max(len(one[i]) for one in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in rows
    )


def row(name: str, many: Sequence[Result]) -> tuple[str, ...]:
    means = {
        one.name: mean(getattr(result.measured, one.name) for result in many) for one in fields(Measured)
    }
    ratios = [one.time_ratio for one in many if one.time_ratio is not None]
    return (
        name,
        str(len(many)),
        f"{means['accuracy']:.4f}",
        *(f"{means[key]:.1%}" for key in ("parameters", "macs")),
        f"{means['bops']:.2%}",
        f"{means['file_bytes']:.0f}",
        f"{means['speedup']:.2f}",
        f"{mean(ratios):.2f}" if ratios else "-",
        many[0].tricks,
    )
