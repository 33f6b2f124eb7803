"""Batch, length, optimizer, schedule, checkpoints, trackers: the numbers of a run."""

import math
import re

from mmclip_launch.import_flags.draft import Draft

NODES = re.compile(r"--nnodes|(^|/|\s)(srun|sbatch)\s")


def batch_and_length(draft: Draft) -> None:
    """The global batch, and the run's length in samples where open_clip was told the size of an epoch."""
    parts = [f"--batch-size {draft['batch-size']}"]
    if draft.command.processes != 1:
        parts.append(f"{draft.processes} processes" if draft.command.processes else "1 process")
    if draft["accum-freq"] != 1:
        parts.append(f"--accum-freq {draft['accum-freq']}")
        draft.put("accumulation.micro_batch_size", draft["batch-size"], draft.said("batch-size", "accum-freq"))
    draft.put("global_batch_size", draft.global_batch_size, " x ".join(parts))
    if draft.command.processes is None:
        draft.lost.append(
            "the number of processes, which the command does not say: global_batch_size and schedule.warmup_samples "
            "are for one; with N, give mmclip import-flags --processes N"
        )
    if "rdzv" in draft.command.launcher and not NODES.search(draft.command.launcher):
        draft.lost.append(
            f"the number of nodes: there is a rendezvous, but no --nnodes, so torchrun starts {draft.processes} processes "
            "on one node; if there are more, give mmclip import-flags --processes N"
        )
    epochs, samples = draft["epochs"], epoch_size(draft)
    if samples is None:
        draft.put("length.epochs", epochs, draft.said("epochs"))
        if "train-num-samples" in draft.given:
            draft.others.append(f"{draft.said('train-num-samples')}: open_clip ignores it for this type of data")
        return
    theirs = _steps_per_epoch(draft, samples) * epochs
    ours = math.ceil(samples * epochs / draft.global_batch_size)
    rounding = "" if theirs == ours else f" (there {theirs:,} steps, rounded per worker; here {ours:,})"
    draft.put("length.samples", samples * epochs, f"{draft.said('train-num-samples', 'epochs')}{rounding}")


def epoch_size(draft: Draft) -> int | None:
    """`--train-num-samples` where it decides the length of an epoch: for tars alone."""
    return draft["train-num-samples"] if draft.fields["data.source.type"][0] == "tars" else None


def optimizer(draft: Draft) -> None:
    """AdamW with open_clip's defaults, which depend on the model's name, written out."""
    vit = "vit" in draft["model"].lower()
    defaults = {"lr": 5e-4, "beta1": 0.9, "beta2": 0.98 if vit else 0.999, "eps": 1e-6 if vit else 1e-8}
    for name, default in defaults.items():
        why = f"open_clip's default for a model {'with' if vit else 'without'} `vit` in its name"
        given = name in draft.given
        draft.put(
            f"optimizer.{name}",
            draft.given[name] if given else default,
            draft.said(name) if given else f"--{name}: {why}",
        )
    draft.put("optimizer.weight_decay", draft["wd"], draft.said("wd"))
    if draft["grad-clip-norm"] is None:
        draft.put("optimizer.max_grad_norm", math.inf, "--grad-clip-norm by default: open_clip does not clip")
    else:
        draft.put("optimizer.max_grad_norm", draft["grad-clip-norm"], draft.said("grad-clip-norm"))
    if draft["opt"].lower() != "adamw":
        draft.refuse("opt", "AdamW is the optimizer that mmclip has")


def schedule(draft: Draft) -> None:
    """Warmup and cooldown in samples."""
    kind, warmup = draft["lr-scheduler"], draft["warmup"] * draft.global_batch_size
    if draft["skip-scheduler"]:
        draft.put("schedule.warmup_samples", 0, "--skip-scheduler: neither warmup nor decay")
        draft.put("schedule.type", "constant", "--skip-scheduler")
        return
    draft.put("schedule.warmup_samples", warmup, f"{draft.said('warmup')}, steps of {draft.global_batch_size} samples")
    if kind != "cosine":
        draft.put("schedule.type", "constant", f"{draft.said('lr-scheduler')}: constant after the warmup")
    if kind not in ("cosine", "const", "const-cooldown"):
        draft.refuse("lr-scheduler", "open_clip knows cosine, const and const-cooldown")
    samples = epoch_size(draft)
    if kind == "const-cooldown":
        cooldown(draft, samples)
    if samples is not None and warmup >= samples * draft["epochs"]:
        draft.lose(
            "warmup",
            f"as long as the run or longer ({samples * draft['epochs']:,} samples), so open_clip would never reach the "
            "learning rate; mmclip refuses to start: lower schedule.warmup_samples",
        )


def cooldown(draft: Draft, samples: int | None) -> None:
    """The last `--epochs-cooldown` epochs; open_clip ends at a rate, mmclip at a fraction of the peak."""
    if draft["epochs-cooldown"] is None:
        return draft.refuse("lr-scheduler", "const-cooldown needs --epochs-cooldown, in open_clip too")
    peak = draft.fields["optimizer.lr"][0]
    draft.put("schedule.final_fraction", draft["lr-cooldown-end"] / peak, draft.said("lr-cooldown-end"))
    draft.put("schedule.cooldown_power", draft["lr-cooldown-power"], draft.said("lr-cooldown-power"))
    if samples is None:
        draft.lose("epochs-cooldown", "the size of an epoch is not known: give schedule.cooldown_samples")
    else:
        draft.put("schedule.cooldown_samples", samples * draft["epochs-cooldown"], draft.said("epochs-cooldown"))
    return None


def checkpoints(draft: Draft) -> None:
    """Epochs become steps where the size of an epoch is known."""
    samples, every = epoch_size(draft), draft["save-frequency"]
    kept = 1 if draft["delete-previous-checkpoint"] else draft["epochs"] if every < 1 else -(-draft["epochs"] // every)
    if samples is not None:
        epochs = every if every > 0 else draft["epochs"]
        draft.put("checkpoint.every_steps", _steps(draft, samples, epochs), draft.said("save-frequency"))
        why = "--delete-previous-checkpoint" if draft["delete-previous-checkpoint"] else "open_clip keeps all"
        draft.put("checkpoint.keep", max(1, kept), why)
    else:
        if draft["delete-previous-checkpoint"]:
            draft.put("checkpoint.keep", 1, "--delete-previous-checkpoint")
        if "save-frequency" in draft.given:
            draft.others.append(
                f"{draft.said('save-frequency')}: saved ten times a run, since the steps of an epoch are unknown here; "
                "set checkpoint.every_steps"
            )


def evaluation_steps(draft: Draft) -> None:
    """Both frequencies in one number, the smaller one, where there is something to evaluate."""
    names = [n for n in ("val-frequency", "zeroshot-frequency") if n in draft.given]
    wanted = ["val-frequency"] if draft["val-data"] else []
    wanted += ["zeroshot-frequency"] if draft["imagenet-val"] or draft["imagenet-v2"] else []
    samples = epoch_size(draft)
    every = min((draft[name] for name in wanted if draft[name] > 0), default=0)
    if every and samples is not None:
        draft.put("evaluation.every_steps", _steps(draft, samples, every), draft.said(*wanted))
    elif names:
        why = "nothing is evaluated" if not wanted else "evaluated at the start and the end; set evaluation.every_steps"
        draft.others.append(f"{draft.said(*names)}: {why}")


def run_folder_and_trackers(draft: Draft) -> None:
    """Where the run goes, and who hears of it."""
    logs = draft["logs"].rstrip("/") or "/"
    arch = draft["model"].replace("/", "-").rpartition(":")[2]
    parts = (f"model_{arch}", f"lr_{draft['lr'] or 5e-4}", f"b_{draft['batch-size']}", f"j_{draft['workers']}")
    name = draft["name"] or "-".join((*parts, f"p_{draft['precision']}"))
    if logs.lower() == "none":
        draft.put("output", f"runs/{name}", f"{draft.said('logs', 'name')}: mmclip always writes its run folder")
    else:
        draft.put("output", f"{logs.removeprefix('./')}/{name}", draft.said("logs", "name"))
    draft.put("seed", draft["seed"], draft.said("seed"))
    draft.put("log_every_steps", draft["log-every-n-steps"], draft.said("log-every-n-steps"))
    is_cpu = draft["device"].startswith("cpu")
    draft.put("device", "cpu" if is_cpu else "auto", draft.said("device"))
    for tracker in ("wandb", "tensorboard"):
        if tracker in draft["report-to"] or "all" in draft["report-to"]:
            draft.put(f"trackers.{tracker}", True, draft.said("report-to"))
    if "trackers.wandb" in draft.fields:
        draft.put("trackers.project", draft["wandb-project-name"], draft.said("wandb-project-name"))


def _steps_per_epoch(draft: Draft, samples: int) -> int:
    """open_clip's own count (data.py of its trainer): whole batches for each worker, then whole accumulations."""
    workers = max(1, draft["workers"])
    batches = math.ceil(samples / (draft["batch-size"] * draft.processes))
    return math.ceil(batches / workers) * workers // draft["accum-freq"]


def _steps(draft: Draft, samples: int, epochs: int) -> int:
    return max(1, round(epochs * samples / draft.global_batch_size))
