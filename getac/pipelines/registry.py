"""Which passes there are: getac's own, those of installed packages, and those in a user's file.

A package offers passes by the entry point group `getac.passes`:

    [project.entry-points."getac.passes"]
    double-weights = "my_package.passes:DoubleWeights"

A file needs no installation: `-p my_passes.py:DoubleWeights`. Both run the user's code, on purpose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import getac.passes
from getac.errors import OptionError
from getac.pipeline import Effect, Fact, Pass
from getac.pipelines.blame import described
from getac.pipelines.declaration import make_pass
from getac.pipelines.spec import PassSpec, parse
from getac.pipelines.standard import PIPELINES
from getac.pipelines.user_files import load_from_file

__all__ = [
    "GROUP",
    "built_in_passes",
    "check_names",
    "checked_class",
    "find_pass",
    "installed_passes",
    "load_entry",
    "make_passes",
    "nearest",
]

GROUP = "getac.passes"
FACTS = ("needs", "gives", "keeps")
REQUIRED = ("name", *FACTS, "run")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
TEMPLATE = "docs/writing-a-pass.md has a template"


def make_passes(pipeline: str | Iterable[Pass]) -> tuple[Pass, ...]:
    """The passes of a spec, or passes as they are.

    Raises:
        OptionError: The text is no pipeline, a pass is unknown or none, or an option does not fit.
    """
    if isinstance(pipeline, str):
        return tuple(one for spec in parse(pipeline) for one in passes_of(spec))
    check_is_many(pipeline)
    return tuple(map(checked, pipeline))


def check_is_many(pipeline: object) -> None:
    if isinstance(pipeline, bytes) or not isinstance(pipeline, Iterable):
        raise OptionError(
            "this is not a pipeline",
            required="passes, or a text such as 'fold-quantizers,infer-axes'",
            found=repr(pipeline),
            hint="a single pass is a pipeline as [pass]" if hasattr(pipeline, "run") else None,
        )


def passes_of(spec: PassSpec) -> Iterator[Pass]:
    """The passes that a spec names: one, or those of a named pipeline."""
    if spec.name in PIPELINES:
        yield from make_pass(PIPELINES[spec.name], spec).passes()
        return
    found = find_pass(spec.name)
    if isinstance(found, type):
        yield checked(make_pass(checked_class(found, spec.name), spec))
    elif callable(found):
        yield getac.passes.SurgeonPass(found, effect_of_function(found, spec))
    else:
        raise OptionError(
            f"{spec.name} is not a pass",
            required="a frozen dataclass, or a function of an onnx-graphsurgeon Graph",
            found=repr(found),
        )


def effect_of_function(function: Any, spec: PassSpec) -> Effect:
    """What a function says that it may do: `{effect=rounds}`, or its attribute `effect`."""
    effects = {one.name.lower(): one for one in Effect}
    options = dict(spec.options)
    said = options.pop("effect", None)
    found = getattr(function, "effect", Effect.NONE) if said is None else effects.get(str(said))
    if options or not isinstance(found, Effect):
        raise OptionError(
            f"{spec.name} is a function, which has one option",
            where=str(spec),
            required=f"effect: {'|'.join(effects)}=none",
            found=", ".join(options) or f"effect {said if said is not None else found!r}",
        )
    return found


def built_in_passes() -> dict[str, type[Pass]]:
    """Name -> pass, of getac itself."""
    found = {}
    for public in getac.passes.__all__:
        kind = getattr(getac.passes, public)
        if is_pass(kind) and kind is not getac.passes.SurgeonPass:  # a function is no text
            found[kind.name] = kind
    return dict(sorted(found.items()))


def is_pass(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind) and all(hasattr(kind, one) for one in REQUIRED)


def installed_passes() -> Mapping[str, EntryPoint]:
    """Name -> entry point, of all installed packages; nothing is imported yet.

    A name that is taken, by getac or by another package, has its package in front: `my_package/calibrate`.
    """
    entries = {(one.name, one.value): one for one in entry_points(group=GROUP)}.values()
    taken = Counter([*built_in_passes(), *PIPELINES, *(one.name for one in entries)])
    return {one.name if taken[one.name] == 1 else f"{package_of(one)}/{one.name}": one for one in entries}


def package_of(entry: EntryPoint) -> str:
    return entry.value.partition(":")[0].partition(".")[0]


def find_pass(name: str) -> Any:
    """What a name stands for: the class of a pass, or what is in somebody's package or file.

    Raises:
        OptionError: There is none of this name, or the file or package cannot be imported.
    """
    built_in = built_in_passes()
    if name in built_in:
        return built_in[name]
    installed = installed_passes()
    if name in installed:
        return load_entry(installed[name])
    if ":" in name:
        return load_from_file(name)
    known = [*built_in, *PIPELINES, *installed]
    raise OptionError(
        f"there is no pass {name}",
        required=", ".join(known),
        found=name,
        hint=nearest(name, known) or "own passes: FILE.py:ClassName; `getac opt --list-passes` shows all",
    )


def check_names(pipeline: str, names: Iterable[str]) -> None:
    """Refuses names that no pass of a pipeline has, and none that it may add."""
    known = {*built_in_passes(), *(one.name for one in make_passes(pipeline))}
    for name in names:
        if name not in known:
            raise OptionError(
                f"there is no pass {name}",
                required="a pass that runs, or all",
                found=name,
                hint=nearest(name, known),
            )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """What was meant, if it was nearly that."""
    close = get_close_matches(name, list(known), n=1)
    return f"{close[0]} is nearly that" if close else None


def load_entry(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # whatever the import of somebody's package raises
        raise OptionError(
            f"the pass {entry.name} cannot be imported", where=entry.value, found=described(error)
        ) from error


def checked_class(kind: type, name: str) -> type[Pass]:
    """A class, if it is a pass."""
    missing = [one for one in REQUIRED if not hasattr(kind, one)]
    if not is_dataclass(kind) or missing:
        raise OptionError(
            f"{name} is not a pass",
            required=f"a frozen dataclass with {', '.join(REQUIRED)}",
            found=f"no {', '.join(missing)}" if missing else f"{kind!r}, which is no dataclass",
            hint=TEMPLATE,
        )
    return kind  # type: ignore[return-value]


def checked(one: Any) -> Pass:
    """An object, if it is a pass that says properly what it needs, gives and keeps."""
    problem = problem_of(one)
    if problem:
        raise OptionError(
            f"{getattr(one, 'name', None) or type(one).__name__} is not a pass",
            required=f"a frozen dataclass with {', '.join(REQUIRED)}",
            found=problem,
            hint="a pipeline in words is one text, not a list" if isinstance(one, str) else TEMPLATE,
        )
    return one  # type: ignore[no-any-return]


def problem_of(one: Any) -> str:
    """Why an object is no pass; empty if it is one."""
    if isinstance(one, type):
        return f"the class {one.__name__}, not an object of it"
    missing = [name for name in REQUIRED if not hasattr(one, name)]
    if missing:
        return f"{one!r}, without {', '.join(missing)}"
    if not isinstance(one.name, str) or not NAME.fullmatch(one.name):
        return f"the name {one.name!r}, which is not like my-pass"
    for name in FACTS:
        facts = getattr(one, name)
        if not isinstance(facts, frozenset | set) or not all(isinstance(fact, Fact) for fact in facts):
            return f"{name} = {facts!r}, which is no frozenset of facts"
    if not isinstance(getattr(one, "effect", Effect.NONE), Effect):
        return f"effect = {one.effect!r}, which is no Effect"
    return "" if callable(one.run) else f"run = {one.run!r}, which cannot be called"
