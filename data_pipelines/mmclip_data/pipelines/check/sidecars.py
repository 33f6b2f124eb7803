"""What other tools wrote beside the tars: how many shards and samples there should be."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmclip_data.pipelines.check.findings import Effect, Finding
from mmclip_data.pipelines.check.shard import CheckedShard


def sidecar_findings(shards: Sequence[CheckedShard]) -> list[Finding]:
    """Where img2dataset's statistics, `nshards.txt`, `sizes.json` or `__len__` contradict the tars."""
    folders: dict[Path, list[CheckedShard]] = {}
    for shard in shards:
        folders.setdefault(shard.path.parent, []).append(shard)
    findings: list[Finding] = []
    for folder, checked in folders.items():
        findings += _img2dataset(folder, checked) + _nshards(folder) + _sizes(folder, checked)
    return findings


def stats_path(tar: Path) -> Path:
    """img2dataset writes this file last, so a tar without it was not finished."""
    return tar.with_name(f"{tar.stem}_stats.json")


def _img2dataset(folder: Path, checked: Sequence[CheckedShard]) -> list[Finding]:
    if not any(folder.glob("*_stats.json")):
        return []
    findings = []
    for shard in checked:
        path = stats_path(shard.path)
        if not path.is_file():
            detail = f"no {path.name}: img2dataset writes it when a shard is complete; download this shard again"
            findings.append(Finding(str(shard.path), "img2dataset did not finish it", "lost", detail=detail))
            continue
        successes = _read(path).get("successes")
        if isinstance(successes, int) and successes != shard.samples:
            detail = f"{path.name} says {successes} successes, {shard.samples} samples are there"
            missing = abs(successes - shard.samples)
            findings.append(Finding(str(shard.path), "img2dataset's count differs", "lost", missing, detail=detail))
        elif not isinstance(successes, int):
            findings.append(
                Finding(str(path), "statistics cannot be read", "note", detail="no number of successes in it")
            )
    return findings + _gaps(folder)


def _gaps(folder: Path) -> list[Finding]:
    """Shards are numbered without gaps; one that is missing failed as a whole."""
    numbers = {int(path.stem): path.stem for path in folder.glob("*.tar") if path.stem.isdigit()}
    if not numbers:
        return []
    width = max(map(len, numbers.values()))
    missing = [f"{number:0{width}d}.tar" for number in range(max(numbers)) if number not in numbers]
    names = tuple((name, "") for name in missing)
    return [Finding(str(folder), "shard number is missing", "note", len(names), names)] if names else []


def _nshards(folder: Path) -> list[Finding]:
    path = folder / "nshards.txt"
    if not path.is_file():
        return []
    text, present = path.read_text(errors="replace").strip(), {tar.name for tar in folder.glob("*.tar")}
    if not text.isdigit():
        return [Finding(str(path), "nshards.txt is wrong", "note", detail=f"{text[:40]!r} is not a number")]
    wanted = {f"{number}.tar" for number in range(min(int(text), 10_000_000))}
    if len(present) == int(text) and (wanted == present or not present & wanted):
        return []
    missing = tuple((name, "") for name in sorted(wanted - present)[:1000])
    detail = f"it says {text} shards, {len(present)} are there"
    count = max(1, abs(int(text) - len(present)))
    return [Finding(str(path), "nshards.txt is wrong", "lost" if missing else "note", count, missing, detail)]


def _sizes(folder: Path, checked: Sequence[CheckedShard]) -> list[Finding]:
    """open_clip's sizes.json (samples by tar) and __len__ (samples in all)."""
    findings: list[Finding] = []
    path = folder / "sizes.json"
    counts = {shard.path.name: shard.samples for shard in checked}
    if path.is_file():
        sizes = _read(path)
        wrong = [
            (name, f"{size} in sizes.json, {counts[name]} in the tar")
            for name, size in sizes.items()
            if name in counts and str(size) != str(counts[name])
        ]
        gone = [(name, "in sizes.json, not in the folder") for name in sizes if not (folder / name).is_file()]
        new = [(name, "in the folder, not in sizes.json") for name in counts if name not in sizes]
        effects: tuple[tuple[list[tuple[str, str]], Effect], ...] = ((wrong, "lost"), (gone, "lost"), (new, "note"))
        for names, effect in effects:
            if names:
                findings.append(Finding(str(path), "sizes.json is wrong", effect, len(names), tuple(names)))
    path = folder / "__len__"
    if path.is_file() and {tar.name for tar in folder.glob("*.tar")} <= counts.keys():
        text, total = path.read_text(errors="replace").strip(), sum(counts.values())
        if text != str(total):
            detail = f"it says {text[:40]!r}, the tars hold {total}"
            findings.append(Finding(str(path), "__len__ is wrong", "lost", detail=detail))
    return findings


def _read(path: Path) -> dict[str, Any]:
    """The JSON object of a file, or an empty one: what is in it is only compared."""
    try:
        facts = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
