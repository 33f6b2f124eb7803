"""Whether a run is sharded: its own field says so, or the `accelerate launch` that started it."""

import os
from collections.abc import MutableMapping
from dataclasses import replace

from mmclip.errors import UserError
from mmclip_launch.run.config import RunConfig

ASKED, VERSION = "ACCELERATE_USE_FSDP", "FSDP_VERSION"


def asked_of_launcher(config: RunConfig, environment: MutableMapping[str, str] = os.environ) -> RunConfig:
    """The run as `accelerate launch` with an FSDP configuration wants it: sharded by us, so the wish goes no further.

    Raises:
        UserError: it wants version 1, whose flat parameters are not supported.
    """
    if environment.get(ASKED, "").lower() not in ("1", "true"):
        return config
    version = environment.get(VERSION, "1")
    if version != "2":
        raise UserError(
            f"accelerate launch asks for FSDP version {version} ({VERSION}): expected 2; set `fsdp_version: 2` under "
            "`fsdp_config` in its file, as launch/accelerate/fsdp2.yaml does"
        )
    del environment[ASKED]
    return replace(config, sharding=replace(config.sharding, method="fsdp2"))


def told_of_sharding(config: RunConfig, ranks: int) -> list[str]:
    """A line about who holds what, none where nothing is to be divided."""
    if config.sharding.method == "none":
        return []
    if ranks == 1:
        return ["sharding: one process holds everything"]
    shards, copies = ranks // config.sharding.replicas, config.sharding.replicas
    times = f", {copies} times" if copies > 1 else ""
    return [f"sharding: weights, gradients and moments lie in {shards} parts{times} (FSDP2)"]
