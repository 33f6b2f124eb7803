"""What all jobs that write shards share: parallel work in order, a journal to resume by, and no loss without a name."""

from mmclip_data.pipelines.job.outcome import Dropped, Kept, Outcome
from mmclip_data.pipelines.job.report import JobReport
from mmclip_data.pipelines.job.workers import Track, in_order, quiet
from mmclip_data.pipelines.job.writing import Job, Work, Written, write_shards

__all__ = [
    "Dropped",
    "Job",
    "JobReport",
    "Kept",
    "Outcome",
    "Track",
    "Work",
    "Written",
    "in_order",
    "quiet",
    "write_shards",
]
