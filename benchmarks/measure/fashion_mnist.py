"""Fashion-MNIST as shards, made once from Debian's package."""

from pathlib import Path

from measure.peer import ROOT
from mmclip_data.pipelines.idx import IdxConfig, make_idx

SOURCE = Path("/usr/share/datasets/fashion-mnist")


def fashion_mnist() -> Path:
    """The folder that `launch/configs/fashion-mnist.toml` reads too.

    Raises:
        SystemExit: the package is not installed.
    """
    folder = ROOT / "data" / "fashion-mnist"
    if not (folder / "test").is_dir():
        if not SOURCE.is_dir():
            raise SystemExit(f"{SOURCE}: no such folder; apt-get install dataset-fashion-mnist")
        print(f"writing {folder} (once; about a minute)", flush=True)
        make_idx(IdxConfig(output=folder, source=SOURCE))
    return folder
