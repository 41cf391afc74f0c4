"""What came of the globs of `prune`: which classes they opened, and why others stayed shut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from getac.axes.analysis import Analysis, FrozenAxis, PruningClass
from getac.axes.axis import leaves
from getac.axes.reasons import KEPT

__all__ = ["prune_warnings"]

SHOWN_REASONS = 3


def prune_warnings(analysis: Analysis, globs: Sequence[str]) -> list[str]:
    """One sentence for all classes that were opened, and one for each wish that was not granted."""
    kept = [one for one in analysis.frozen if one.why.kind is KEPT and was_asked_for(one, analysis)]
    answered: list[PruningClass | FrozenAxis] = [*analysis.opened, *kept]
    vain = [glob for glob in globs if not any(touches(one, glob) for one in answered)]
    return [*opened(analysis.opened), *kept_instead(kept), *(without_effect(g, analysis) for g in vain)]


def was_asked_for(one: FrozenAxis, analysis: Analysis) -> bool:
    """Whether prune would have opened an axis, had no other reason kept it shut."""
    opened = analysis.inference.opened
    return any(leaf.frozen is one.why and leaf in opened for m in one.members for leaf in leaves(m.axis))


def opened(classes: Sequence[PruningClass]) -> Iterator[str]:
    if classes:
        names = ", ".join(f"{one.name} ({one.size} {one.role})" for one in classes)
        yield (
            f"opened on request although statistics are taken over them: {names};"
            " removing units changes the statistics, so the sliced model is not the masked one"
        )


def kept_instead(axes: Sequence[FrozenAxis]) -> Iterator[str]:
    if axes:
        names = ", ".join(sorted({one.why.node for one in axes}))
        yield f"keep goes before prune: {names} and what is tied to it stay whole"


def without_effect(glob: str, analysis: Analysis) -> str:
    reasons = list(dict.fromkeys(str(one.why) for one in analysis.frozen if touches(one, glob)))
    shown = reasons[:SHOWN_REASONS] + ["..."] * (len(reasons) > SHOWN_REASONS)
    found = f"it is frozen for another reason: {'; '.join(shown)}" if reasons else "nothing is frozen there"
    return f"the glob {glob!r} of prune opens nothing: {found}"


def touches(one: PruningClass | FrozenAxis, glob: str) -> bool:
    return any(fnmatchcase(member.name, glob) for member in one.members)
