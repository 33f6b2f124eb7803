"""Versions against what mmclip asks for, all read from the metadata of installed packages: nothing is imported."""

import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distributions, metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mmclip_launch.doctor.finding import Finding

SHOWN = (
    "torch",
    "torchvision",
    "open-clip-torch",
    "timm",
    "webdataset",
    "accelerate",
    "transformers",
    "numpy",
    "pillow",
)
"""Worth a line of their own; the others share one where they fit."""
FOR_DEVELOPERS = ("dev", "docs")

Versions = Mapping[str, str]
"""Version by canonical name (PEP 503)."""


def installed() -> Versions:
    """Every distribution that this interpreter sees; the first on its path, where there are several."""
    versions: dict[str, str] = {}
    for distribution in distributions():
        if (name := distribution.metadata["Name"]) is not None:
            versions.setdefault(canonicalize_name(name), distribution.version)
    return versions


def versions() -> Iterator[Finding]:
    """Python, mmclip and its requirements."""
    try:
        own = metadata("mmclip")
    except PackageNotFoundError:
        yield Finding(name="mmclip", value="not installed", state="problem", fix="in its folder: pip install -e .")
        return
    yield python_version(platform.python_version(), own["Requires-Python"] or "")
    yield Finding(name="mmclip", value=own["Version"])
    present = installed()
    requirements = [Requirement(line) for line in own.get_all("Requires-Dist") or []]
    yield from required_findings([r for r in requirements if applies(r)], present)
    yield from extra_findings(requirements, own.get_all("Provides-Extra") or [], present)


def python_version(running: str, asked: str) -> Finding:
    """The interpreter against `Requires-Python`."""
    if SpecifierSet(asked).contains(running, prereleases=True):
        return Finding(name="python", value=f"{running} (asked: {asked or 'any'})")
    return Finding(name="python", value=running, state="problem", fix=f"make an environment with Python {asked}")


def applies(requirement: Requirement, extra: str = "") -> bool:
    """Whether its marker holds here, for one of the package's extras or for none."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def fault(requirement: Requirement, present: Versions) -> str:
    """What is wrong with a requirement: `""`, `"missing"` or the version that does not fit."""
    version = present.get(canonicalize_name(requirement.name))
    if version is None:
        return "missing"
    return "" if requirement.specifier.contains(version, prereleases=True) else version


def required_findings(requirements: Sequence[Requirement], present: Versions) -> Iterator[Finding]:
    """A line for each that is central or wrong, one for all the others."""
    by_name: dict[str, Requirement] = {canonicalize_name(requirement.name): requirement for requirement in requirements}
    fitting = []
    for name in dict.fromkeys([*SHOWN, *by_name]):
        requirement = by_name.get(name)
        if requirement is not None and (wrong := fault(requirement, present)):
            value = f"{wrong} (asked: {requirement.specifier or 'any'})"
            fix = f'pip install "{requirement.name}{requirement.specifier}"'
            yield Finding(name=name, value=value, state="problem", fix=fix)
        elif name in SHOWN and name in present:
            asked = f" (asked: {requirement.specifier})" if requirement is not None else ""
            yield Finding(name=name, value=f"{present[name]}{asked}")
        elif requirement is not None:
            fitting.append(name)
    if fitting:
        yield Finding(name="others", value=f"{len(fitting)} required packages, all fit")


def extra_findings(requirements: Iterable[Requirement], extras: Iterable[str], present: Versions) -> Iterator[Finding]:
    """Which extras are whole, which are not there, and what a half-installed one lacks."""
    whole, absent = [], []
    wrong: dict[str, list[str]] = defaultdict(list)
    for extra in (extra for extra in extras if extra not in FOR_DEVELOPERS):
        own = [r for r in requirements if r.marker is not None and applies(r, extra) and not applies(r)]
        faults = {requirement.name: fault(requirement, present) for requirement in own}
        if not any(faults.values()):
            whole.append(extra)
        elif all(found == "missing" for found in faults.values()):
            absent.append(extra)
        else:
            wrong[extra] = [f"{name} {found}" for name, found in faults.items() if found]
    if whole:
        yield Finding(name="extras", value=f"installed: {', '.join(sorted(whole))}")
    for extra, faults in wrong.items():
        value = f"{extra}: {', '.join(faults)}"
        yield Finding(name="extras", value=value, state="note", fix=f"pip install 'mmclip[{extra}]'")
    if absent:
        names = ", ".join(sorted(absent))
        yield Finding(
            name="extras", value=f"not installed: {names}", fix="for one that you want: pip install 'mmclip[NAME]'"
        )
