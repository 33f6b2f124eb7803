"""A peer's own venv under `.peers/`, made on first use: peers pin versions that mmclip does not have.

Everything that both sides use (torch, numpy, pillow, timm) has the version of `constraints.txt`; only what the peer itself
asks for differs. torch is named exactly, because a looser request would take another build than ours.

torchvision's extension does not load beside a CPU build of torch, and without it open_clip cannot be imported. The venv
gets mmclip's own remedy as a start-up file: `mmclip/torchvision_ops.py` under another name, and one line that calls it when
torchvision is first looked for. It declares two operators that no trainer calls, and times nothing.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".peers"
STAMP = "mmclip-peer.json"
OPERATORS = "torchvision_operators"
START_UP = (ROOT / "launch" / "mmclip_startup.pth").read_text().replace("mmclip.torchvision_ops", OPERATORS)


def peer_python(name: str, requirements: Sequence[str], unpinned: Sequence[str] = ()) -> Path:
    """The interpreter of `.peers/NAME`, with `requirements` and nothing of ours; made or mended where it is not so.

    `unpinned` are packages whose version the peer chooses instead of `constraints.txt`.
    """
    folder = PEERS / name
    python = folder / "bin" / "python"
    wanted = json.dumps([*requirements, *unpinned, constraints(unpinned), START_UP])
    if python.is_file() and (folder / STAMP).is_file() and (folder / STAMP).read_text() == wanted:
        return python
    print(f"making {folder} (once; some minutes): {' '.join(requirements)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pins = folder / "constraints.txt"
    pins.write_text(constraints(unpinned))
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-c", str(pins), *requirements], check=True)
    packages = site_packages(python)
    shutil.copy(ROOT / "mmclip" / "torchvision_ops.py", packages / f"{OPERATORS}.py")
    (packages / f"{OPERATORS}.pth").write_text(START_UP)
    (folder / STAMP).write_text(wanted)
    return python


def constraints(unpinned: Sequence[str]) -> str:
    """Our pins without those of `unpinned`."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    left_out = {_normalised(name) for name in unpinned}
    return "".join(f"{line}\n" for line in lines if _normalised(line.partition("==")[0]) not in left_out)


def site_packages(python: Path) -> Path:
    """Where the interpreter's packages lie."""
    return Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))


def versions(python: Path, packages: Sequence[str], prefix: str) -> dict[str, str]:
    """The peer's versions of `packages`, each name behind `prefix`."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {list(packages)!r}}}))"
    return {f"{prefix} {name}": found for name, found in json.loads(_ask(python, code)).items()}


def _ask(python: Path, code: str) -> str:
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
