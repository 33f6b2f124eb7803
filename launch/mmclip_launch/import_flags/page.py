"""The documentation page, made from the same data as the run files.

python -m mmclip_launch.import_flags.page > docs/from_open_clip.md
"""

from mmclip_launch.import_flags.flags import OPEN_CLIP, Flag, flags

INTRODUCTION = """# From open_clip

<!-- Made by `python -m mmclip_launch.import_flags.page`; a test keeps it equal to the data. -->

`mmclip import-flags` turns a command line of open_clip's trainer into a run file:

```bash
mmclip import-flags 'torchrun --nproc_per_node 4 -m open_clip_train.main \\
    --train-data "data/{000..127}.tar" --train-num-samples 1280000 --model ViT-B-32 --batch-size 256' > run.toml
mmclip import-flags --output run.toml - < train.sh    # a batch script for SLURM, as it is
```

It reads `python -m open_clip_train.main`, `torchrun`, `torch.distributed.launch`, `accelerate launch`, `srun` with its
`#SBATCH` lines, `mpirun` and `horovodrun`, old names such as `src/training/main.py`, line continuations, quotes,
`--flag=value` and abbreviated flags. It runs nothing, and fills in no shell variables.

- What changes results and has no place in mmclip yet opens the file under `# NOT carried over:` and stands on the error
  output; the exit code is 0.
- Where mmclip would train something else without a flag, there is no file, and the exit code is 2: distillation, CoCa,
  other optimizers than AdamW, weighted sources, `pipe:`, ImageNet weights for the image tower, text towers that
  start from Hugging Face's weights, `--force-custom-text` and `--force-quick-gelu` together with released weights.
- `--resume FILE` of a training checkpoint goes on with its moments, its steps and its learning rate (`resume_open_clip`);
  of bare weights it starts a new run from them, as there.
- What open_clip does by default and mmclip does not is written out: its learning rate, betas and epsilon (they depend on
  the model's name), no clipping of gradients, a warmup of 10,000 steps.

The weights and checkpoints of open_clip load as they are: `--model.init open_clip:ViT-B-32/laion2b_s34b_b79k`, or
`--model.init open_clip:ViT-B-32/logs/mine/checkpoints/epoch_3.pt` for a file. `mmclip export RUN FOLDER` writes a folder
that open_clip opens as `local-dir:FOLDER`.

## What counts differently

| | open_clip | mmclip |
|---|---|---|
| batch | `--batch-size` is that of a process | `global_batch_size` is that of a step, whatever the number of processes |
| warmup | steps | samples |
| length | epochs, rounded up to whole batches of each worker | samples, rounded up to one batch |
| an epoch | about each sample once, or drawn with replacement | each sample once |
| checkpoints | at the end of epochs | at any step; a resumed run ends with the same weights |
| accumulation | `--accum-freq`, the scale's gradient times that | `accumulation.micro_batch_size`; the exact gradient |
| gradient on several processes | right with `--local-loss --gather-with-grad` together | always that of the whole batch |
"""


def page() -> str:
    """The whole page."""
    rows = "\n".join(_row(name, flag) for name, flag in flags().items())
    heading = f"## All {len(flags())} flags of open_clip {OPEN_CLIP}"
    columns = "| flag | default | field of the run file | what becomes of it |\n|---|---|---|---|"
    return f"{INTRODUCTION}\n{heading}\n\n{columns}\n{rows}\n"


def _row(name: str, flag: Flag) -> str:
    default = "" if flag.value_by_default in (None, "", False, {}) else f"`{flag.value_by_default!r}`".replace("'", "")
    field = f"`{flag.field}`" if flag.field else ""
    status = "" if flag.status == "mapped" else f"{flag.status}: "
    effect = {"none": "", "loud": " (said loudly)", "refused": " (no file)"}[flag.effect]
    return f"| `--{name}` | {default} | {field} | {status}{flag.note}{effect} |".replace("|  |", "| |").replace(
        "|  |", "| |"
    )


if __name__ == "__main__":
    print(page(), end="")
