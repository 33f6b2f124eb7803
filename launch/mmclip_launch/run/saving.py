"""`Saving`: checkpoints of a run, written while it trains, and what each is good for once it is on the disk."""

from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from mmclip.training.checkpoint.contents import TrainingState, checkpoint_bytes, contents
from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.checkpoint.saver import Saver
from mmclip.training.checkpoint.sharded import sharded_contents
from mmclip.training.progress import Progress
from mmclip_launch.mirror.sender import Mirror
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.recipe.choosing import Choosing
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.made_with import made_with
from mmclip_launch.run.stopping.edge import Edge


class Saving:
    """Under DDP the first rank writes; of sharded state each writes its part."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        run: Run,
        choosing: Choosing,
        edge: Edge,
        journal: Journal,
        mirror: Mirror | None,
        say_alarm: Callable[[str], None],
    ) -> None:
        self.accelerator = accelerator
        self.step = run.step
        self.data_fingerprint = run.loader.fingerprint_at
        self.made_with = made_with(accelerator.device)
        self.choosing, self.edge, self.journal, self.mirror = choosing, edge, journal, mirror
        self.folder = Path(config.output)
        # Under DDP all ranks hold the same state.
        is_sharded = self.step.is_sharded
        writers = (accelerator.process_index, accelerator.num_processes) if is_sharded else (0, 1)
        saves = is_sharded or accelerator.is_main_process
        self.saver = Saver(journal.lease, config.checkpoint, say_alarm, *writers) if saves else None
        if self.saver is not None:
            self.saver.prepare(checkpoint_bytes(run.step.trained) // writers[1])
        self._durable_step: int | None = None

    def poll(self) -> None:
        """See whether the last save has ended.

        Raises:
            MachineError: saving has failed for too long, or another trainer has taken over the run.
        """
        if self.saver is not None:
            self.saver.poll()
            self._note_durable()

    def save(self, progress: Progress) -> None:
        """Begin to write the state as it is; training may go on when this returns."""
        self.edge.activity.begin("saving")
        self.edge.saved()
        if self.saver is not None:
            ranks = self.accelerator.num_processes
            state = TrainingState(progress, self.data_fingerprint(progress.samples_seen), ranks, self.made_with)
            files = (sharded_contents if self.step.is_sharded else contents)(self.step.trained, state)
            self.saver.save(progress.step, files, self._spared())

    def settle(self) -> None:
        """Return on every rank when the last checkpoint is on the disk.

        Raises:
            MachineError: as `poll` does.
        """
        if self.saver is not None:
            self.saver.wait()
            self._note_durable()
            self.edge.is_on_disk()
        self.journal.settle()
        if self.mirror is not None:
            self.mirror.settle()
        self.edge.agreement.any(False)  # over a group that is patient: the disk may be slow

    def close(self) -> None:
        """Let saves and copies that have begun end."""
        if self.saver is not None:
            self.saver.close()
        if self.mirror is not None:
            self.mirror.close()

    def _spared(self) -> set[str]:
        """Checkpoints that stay however many follow: the best so far, and what is being copied."""
        best = self.choosing.best_folder
        spared = set() if best is None else {best.name}
        return spared if self.mirror is None else spared | self.mirror.spared

    def _note_durable(self) -> None:
        """What a checkpoint is good for once it is on the disk: being the run's result, and being copied."""
        assert self.saver is not None
        if self.saver.durable_step is not None and self.saver.durable_step != self._durable_step:
            self._durable_step = self.saver.durable_step
            if self.accelerator.is_main_process:
                self.choosing.record()
            if self.mirror is not None:
                self.mirror.offer(checkpoint_folder(self.folder, self._durable_step))
        if self.mirror is not None:
            self.mirror.poll()
