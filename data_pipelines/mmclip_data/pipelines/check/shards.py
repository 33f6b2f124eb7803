"""Many shards checked at once, and what only shows beside each other: keys and shards that come twice.

mmclip shards check 'data/{00000..00127}.tar' --decode
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmclip.config import config
from mmclip_data.pipelines.check.findings import EFFECTS, Finding
from mmclip_data.pipelines.check.shard import CheckedShard, ShardCheck
from mmclip_data.pipelines.check.sidecars import sidecar_findings
from mmclip_data.pipelines.job import Track, in_order, quiet
from mmclip_data.pipelines.job.workers import worker_count
from mmclip_data.shards.atomic import atomic_file
from mmclip_data.shards.expand import expand_shards
from mmclip_data.shards.index import index_path, load_index
from mmclip_data.shards.walk import build_index

JSON_NAMES = 100


@config
class CheckConfig:
    """Read every byte of shards and tell what a run would lose of them."""

    shards: tuple[str, ...]
    """Files, folders or patterns such as data/{000..127}.tar."""
    captions: tuple[str, ...] | None = None
    """Where captions are looked for, as in a run file's `data.captions`: members, or `json:` and a key; default: where a run
    without that would look."""
    image_only: bool = False
    """Look for no captions: shards for a run with `data.image_only`."""
    decode: bool = False
    """Decode every picture too."""
    index_folder: Path | None = None
    """Where the indexes stand when they are not beside the shards."""
    workers: int | None = None
    """Processes; default: one for each core."""
    json: bool = False
    """Print one JSON object in place of the table."""
    names: Path | None = None
    """A .jsonl file to write, with every finding and every name in it."""


@dataclass(frozen=True)
class CheckReport:
    """All shards, and all flaws."""

    shards: tuple[CheckedShard, ...]
    findings: tuple[Finding, ...]

    @property
    def loses(self) -> bool:
        """Whether a run would lose a sample or refuse a shard."""
        return any(finding.effect != "note" for finding in self.findings)

    @property
    def totals(self) -> dict[str, int]:
        """Shards, bytes, samples, and members by extension."""
        members: dict[str, int] = {}
        for shard in self.shards:
            for extension, count in shard.members.items():
                members[extension] = members.get(extension, 0) + count
        totals = {"shards": len(self.shards), "bytes": sum(shard.bytes for shard in self.shards)}
        return totals | {"samples": sum(shard.samples for shard in self.shards), **members}

    def rows(self) -> list[tuple[str, str, int, int, str]]:
        """Effect, kind, count, shards concerned and an example of each kind, the worst first."""
        kinds: dict[tuple[int, str], list[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault((EFFECTS.index(finding.effect), finding.kind), []).append(finding)
        return [
            (EFFECTS[effect], kind, sum(finding.count for finding in found), len(found), _example(found[0]))
            for (effect, kind), found in sorted(kinds.items(), key=lambda entry: entry[0])
        ]

    def facts(self) -> dict[str, Any]:
        """As JSON; of each finding the first hundred names."""
        shards = [
            {"path": str(shard.path), "bytes": shard.bytes, "samples": shard.samples, "members": shard.members}
            | {"indexed": shard.indexed, "fingerprint": shard.fingerprint}
            for shard in self.shards
        ]
        findings = [finding.facts(JSON_NAMES) for finding in self.findings]
        return {"loses": self.loses, "totals": self.totals, "findings": findings, "shards": shards}


def check_shards(config: CheckConfig, track: Track = quiet) -> CheckReport:
    """Check each shard by itself, in parallel, then all of them against each other and the files beside them.

    Raises:
        UserError: `shards` names nothing.
    """
    tars = expand_shards(config.shards)
    work = ShardCheck(() if config.image_only else config.captions, config.decode, config.index_folder)
    checked = list(track(in_order(work, tars, min(len(tars), worker_count(config.workers))), len(tars), "check"))
    findings = [finding for shard in checked for finding in shard.findings]
    findings += sidecar_findings(checked) + _same_shards(checked) + _same_keys(checked, config.index_folder)
    report = CheckReport(tuple(checked), tuple(findings))
    if config.names:
        config.names.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(config.names) as handle:
            handle.writelines(json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in _every_name(findings))
    return report


def _every_name(findings: Iterable[Finding]) -> Iterable[dict[str, str | int]]:
    for finding in findings:
        facts: dict[str, str | int] = {"kind": finding.kind, "effect": finding.effect, "shard": finding.shard}
        if not finding.names:
            yield facts | {"count": finding.count, "detail": finding.detail}
        for name, detail in finding.names:
            yield facts | {"name": name} | ({"detail": detail} if detail else {})


def _example(finding: Finding) -> str:
    name, detail = finding.names[0] if finding.names else ("", finding.detail)
    return f"{finding.shard}{f' {name}' if name else ''}{f': {detail}' if detail else ''}"


def _same_shards(checked: list[CheckedShard]) -> list[Finding]:
    """Shards that hold the same samples in the same order: a copy, or a download that came twice."""
    first: dict[str, CheckedShard] = {}
    findings = []
    for shard in checked:
        original = first.setdefault(shard.fingerprint, shard)
        if original is not shard and shard.samples:
            detail = f"all {shard.samples} samples are those of {original.path}"
            findings.append(
                Finding(str(shard.path), "shard is a copy of another", "note", shard.samples, detail=detail)
            )
    return findings


def _same_keys(checked: list[CheckedShard], index_folder: Path | None) -> list[Finding]:
    """Keys of several shards. A sample's identity is its shard and key, so nothing is lost here; other tools may mind."""
    sizes = [len(shard.key_hashes) for shard in checked]
    hashes = np.concatenate([shard.key_hashes for shard in checked])
    order = np.argsort(hashes, kind="stable")
    ranked = hashes[order]
    later = np.sort(order[1:][ranked[1:] == ranked[:-1]])  # all but the first of each
    owners = np.repeat(np.arange(len(checked)), sizes)
    starts = np.cumsum([0, *sizes])
    findings = []
    for number in np.unique(owners[later]).tolist():
        shard = checked[number]
        path = index_path(shard.path, index_folder)
        index = load_index(path) if shard.indexed else build_index(shard.path, salvage=True)
        rows = (later[owners[later] == number] - starts[number]).tolist()
        names = tuple((index.key(row), "") for row in rows)
        findings.append(Finding(str(shard.path), "key is in an earlier shard too", "note", len(names), names))
    return findings
