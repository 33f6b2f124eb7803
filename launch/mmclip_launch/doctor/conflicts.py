"""Packages that are installed but do not get on with each other."""

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import distributions, packages_distributions, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmclip_launch.doctor.finding import Finding
from mmclip_launch.doctor.packages import Versions, applies, fault, installed


def broken_requirements() -> Iterator[Finding]:
    """What `pip check` would say; a problem where mmclip depends on it, else a note."""
    wanted: dict[str, Sequence[Requirement]] = {
        canonicalize_name(name): [Requirement(line) for line in distribution.requires or []]
        for distribution in distributions()
        if (name := distribution.metadata["Name"]) is not None
    }
    yield from requirement_findings(wanted, installed(), closure("mmclip", wanted))


def closure(root: str, wanted: Mapping[str, Sequence[Requirement]]) -> set[str]:
    """Canonical names of `root` and of all that it depends on, without extras."""
    reached, queue = {root}, [root]
    while queue:
        for requirement in wanted.get(queue.pop(), ()):
            name = canonicalize_name(requirement.name)
            if name not in reached and applies(requirement):
                reached.add(name)
                queue.append(name)
    return reached


def requirement_findings(
    wanted: Mapping[str, Sequence[Requirement]], present: Versions, needed: set[str]
) -> Iterator[Finding]:
    """One line for each requirement that is missing or has another version, or a single one that says all hold."""
    # mmclip's own are shown among the versions.
    broken = [
        (name, requirement, wrong)
        for name, requirements in wanted.items()
        if name != "mmclip"
        for requirement in requirements
        if applies(requirement) and (wrong := fault(requirement, present))
    ]
    for name, requirement, wrong in broken:
        yield Finding(
            name=name,
            value=f"asks for {requirement.name}{requirement.specifier}; found: {wrong}",
            state="problem" if name in needed else "note",
            fix=f'pip install "{requirement.name}{requirement.specifier}", or another version of {name}',
        )
    if not broken:
        yield Finding(name="requirements", value=f"of all {len(wanted)} installed packages hold")


def import_names() -> Iterator[Finding]:
    """Two distributions that install a package of one name: the later silently overwrote files of the earlier."""
    ours = {canonicalize_name(Requirement(line).name) for line in requires("mmclip") or []} | {"mmclip", "torchvision"}
    yield from claim_findings(packages_distributions(), ours, is_namespace)


def claim_findings(
    claims: Mapping[str, Iterable[str]], ours: set[str], shared: Callable[[str], bool]
) -> Iterator[Finding]:
    """Claims on the import names of mmclip and its requirements; `shared(name)` says which may have several owners."""
    disputed = {
        name: sorted({canonicalize_name(owner) for owner in owners})
        for name, owners in claims.items()
        if len(set(owners)) > 1 and {canonicalize_name(owner) for owner in owners} & ours and not shared(name)
    }
    for name, owners in disputed.items():
        strangers = [owner for owner in owners if owner not in ours] or owners[1:]
        keep = next(owner for owner in owners if owner not in strangers)
        yield Finding(
            name=f"import {name}",
            value=f"is claimed by {' and '.join(owners)}: files of one overwrote those of the other",
            state="problem",
            fix=f"pip uninstall {' '.join(strangers)}; pip install --force-reinstall --no-deps {keep}",
        )
    if not disputed:
        yield Finding(name="import names", value="each has one owner")


def is_namespace(name: str) -> bool:
    """Whether an import name is a PEP 420 namespace, which several distributions may fill."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is None


def double_installations() -> Iterator[Finding]:
    """A package with two metadata folders in one place: an interrupted upgrade, of which nobody knows which half runs."""
    places = [
        (str(d.locate_file("")), canonicalize_name(d.metadata["Name"])) for d in distributions() if d.metadata["Name"]
    ]
    for (_, name), count in Counter(places).items():
        if count > 1:
            yield Finding(
                name=name,
                value=f"is installed {count} times in one folder",
                state="problem",
                fix=f"pip uninstall {name}, again until it is gone, then install it",
            )


def torchvision_operators() -> Iterator[Finding]:
    """Whether torchvision's compiled part fits this torch; tried for real, and the same as training does."""
    from mmclip.torchvision_ops import install, stand_ins_declared

    install()
    if importlib.util.find_spec("torchvision") is None:
        yield Finding(
            name="torchvision",
            value="not installed: open_clip needs it",
            state="problem",
            fix="pip install torchvision",
        )
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:  # built for another CUDA, say
        yield Finding(
            name="torchvision",
            value=f"{version('torchvision')}: cannot be imported beside torch {version('torch')}: {error}",
            state="problem",
            fix="install torch and torchvision from one index, at the same time",
        )
        return
    yield torchvision_finding(stand_ins_declared(), version("torch"), version("torchvision"))


def torchvision_finding(stand_ins: bool, torch_version: str, torchvision_version: str) -> Finding:
    """`stand_ins`: the compiled operators did not load, and declarations took their place."""
    if not stand_ins:
        return Finding(
            name="torchvision", value=f"{torchvision_version}: compiled operators load beside torch {torch_version}"
        )
    return Finding(
        name="torchvision",
        value=f"{torchvision_version}: compiled operators do not load beside torch {torch_version} (another build). "
        "mmclip declares stand-ins, so open_clip and timm import and training is not affected; detection operators "
        "such as nms cannot run",
        state="note",
        fix="only if you need them: install torch and torchvision from one index, at the same time",
    )


def picture_formats() -> Iterator[Finding]:
    """Which formats this pillow decodes."""
    from PIL import features

    yield from format_findings({name: bool(features.check(name)) for name in ("jpg", "zlib", "webp", "libjpeg_turbo")})


def format_findings(has: Mapping[str, bool]) -> Iterator[Finding]:
    """`has`: pillow's features by its own names (`zlib` is PNG)."""
    essential = [label for name, label in (("jpg", "JPEG"), ("zlib", "PNG")) if not has[name]]
    fix = "pip install --force-reinstall pillow (its wheels hold all formats)"
    if essential:
        yield Finding(name="pillow", value=f"cannot read {' and '.join(essential)}", state="problem", fix=fix)
    if not has["webp"]:
        value = "cannot read WebP: such samples count as bad ones"
        yield Finding(name="pillow", value=value, state="note", fix=fix)
    if has["jpg"] and not has["libjpeg_turbo"]:
        yield Finding(name="pillow", value="decodes JPEG without libjpeg-turbo, slower", state="note", fix=fix)
    if not essential and has["webp"]:
        yield Finding(name="pillow", value="reads JPEG, PNG and WebP")
