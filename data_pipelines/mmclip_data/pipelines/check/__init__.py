"""What a run would lose of these shards, found before the run: nothing is written."""

from mmclip_data.pipelines.check.findings import Finding
from mmclip_data.pipelines.check.shards import CheckConfig, CheckReport, check_shards

__all__ = ["CheckConfig", "CheckReport", "Finding", "check_shards"]
