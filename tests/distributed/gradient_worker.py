"""Run under python, torchrun or accelerate launch: take three steps of a run and write what each of them saw and did.

The folder of an objective gets the metrics and the ledger that the hooks of a run write.

Arguments: the run file, the folder for the answers, flags for every run. Sharded runs leave out what they refuse: adapters and
batch norms.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from mmclip.batch import DataPosition
from mmclip.ops.shards import whole
from mmclip.training.checkpoint.lease import Lease, claim
from mmclip.training.checkpoint.patience import Patience
from mmclip.training.progress import Progress
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.hooks import RunHooks
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.trackers import build_writers

# The one as it is by default, the other with ids of captions and pictures, which each rank computes from its own slice.
CLIP = ("--objective.type", "clip")
SIGLIP = ("--objective.type", "siglip", "--objective.duplicates", "positive", "--objective.label_smoothing", "0.1")
DROPPED = ("--towers.patch_dropout", "0.5")
RESNET = ("--model.arch", "tiny-resnet-32", "--towers.patch_dropout", "0", "--towers.activation_checkpointing", "False")
LORA = ("--towers.lora.rank", "2", "--towers.lora.targets", "linear")
VARIANTS = {
    "clip": CLIP,
    "batch-norm": (*CLIP, *RESNET),
    "lora": (*CLIP, *LORA),
    "lora-accumulated": (*CLIP, *LORA, "--accumulation.micro_batch_size", "4"),
    "siglip": SIGLIP,
    "clip-accumulated": (*CLIP, "--accumulation.micro_batch_size", "4"),
    "dropped": (*CLIP, *DROPPED),
    "dropped-accumulated": (*CLIP, *DROPPED, "--accumulation.micro_batch_size", "4"),
    "siglip-accumulated": (*SIGLIP, "--accumulation.micro_batch_size", "2", "--accumulation.graph_gib", "1.0"),
}


def main(run_file: Path, answers: Path, *all_runs: str) -> None:
    for objective, own in VARIANTS.items():
        if (LORA[0] in own or "tiny-resnet-32" in own) and "fsdp2" in all_runs:
            continue
        folder = answers / objective
        folder.mkdir(exist_ok=True)
        flags = [*own, *all_runs, "--output", str(folder), "--log_every_steps", "1"]
        config = load_run_config(run_file, flags)
        accelerator = build_accelerator(config)
        run = assemble(config, accelerator)
        gradients = {}

        def note(*_: object, module=run.step.module, gradients=gradients) -> None:
            gradients.update({n: whole(p.grad).clone() for n, p in module.named_parameters() if p.grad is not None})
            gradients.update({n: b.clone() for n, b in module.named_buffers() if ".running_" in n})  # of batch norms

        run.step.bare_optimizer.register_step_pre_hook(note)
        writer = build_writers(config.trackers, folder, {}, 0, accelerator.is_main_process)
        lease = claim(folder) if accelerator.is_main_process else Lease(folder, 0)
        journal = Journal(lease, Patience(0.0, print))
        hooks = RunHooks(config, accelerator, run, writer, lambda *_: {}, lambda *_: None, print, journal)
        progress, batches = Progress(), run.loader.batches(DataPosition(0))
        steps = []
        for number in range(3):
            batch = next(batches)
            report = run.step(batch, progress)
            loss = accelerator.reduce(report.loss, "mean").item()
            steps.append({"ids": batch.ids, "keys": batch.keys.tolist(), "lr": report.learning_rate, "loss": loss})
            if accelerator.is_main_process:
                save_file(gradients, answers / f"{objective}-gradients-{number}.safetensors")
            progress = progress.after(config.global_batch_size)
            hooks.record(progress, batch, report, 0.0)
        writer.close()
        hooks.close()
        (answers / f"{objective}-steps-{accelerator.process_index}.json").write_text(json.dumps(steps))
        accelerator.wait_for_everyone()
        run.step.release()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
