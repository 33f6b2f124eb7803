"""`mmclip import-flags "COMMAND"`: the run file for a command line of open_clip's trainer.

mmclip import-flags 'torchrun --nproc_per_node 4 -m open_clip_train.main --train-data "data/{000..127}.tar" --model ViT-B-32'
mmclip import-flags --output run.toml - < train.sh
"""

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmclip.errors import UserError
from mmclip_launch.import_flags.command import EXAMPLE, Command, read_command, read_words
from mmclip_launch.import_flags.data import data, evaluation_sets
from mmclip_launch.import_flags.draft import Draft, as_given, render
from mmclip_launch.import_flags.flags import OPEN_CLIP, flags, parse
from mmclip_launch.import_flags.model import model, objective_and_precision
from mmclip_launch.import_flags.towers import towers
from mmclip_launch.import_flags.training import (
    batch_and_length,
    checkpoints,
    evaluation_steps,
    optimizer,
    run_folder_and_trackers,
    schedule,
)
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.tables import from_table

USAGE = f"""usage: mmclip import-flags [--output FILE] [--processes N] COMMAND

Prints a run file for a command line of open_clip's trainer (flags of open_clip {OPEN_CLIP}).

COMMAND       one quoted text, or several words, or the file of a batch script, or - to read it from standard input
--output      write the file there, instead of printing it
--processes   processes of the run, where the command does not say"""


def main(arguments: Sequence[str]) -> None:
    """Print or write the run file; what is not carried over is said on stderr too.

    Raises:
        UserError: the command cannot be read, or the file would train something else.
    """
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    output, processes = _own(words, "--output"), _own(words, "--processes")
    if processes is not None and not (processes.isdigit() and int(processes)):
        raise UserError(f"--processes {processes}: expected a whole number above 0")
    if not words:
        raise UserError(f"no command\n{USAGE}")
    text = _text(words[0]) if len(words) == 1 else None
    command = read_words(words) if text is None else read_command(text)
    if processes is not None:
        command = replace(command, processes=int(processes))
    draft = translate(command)
    content = run_file(draft, output or "RUN.toml")
    for line in draft.lost:
        print(f"warning: NOT carried over: {line}", file=sys.stderr)
    if output is None:
        print(content, end="")
        return
    if Path(output).exists():
        raise UserError(f"--output {output}: the file exists; give another name, or remove it")
    Path(output).write_text(content, encoding="utf-8")
    print(f"written: {output}", file=sys.stderr)


def _text(word: str) -> str:
    """What the one word of a command line means: standard input, a script that is there, or the command itself.

    Raises:
        UserError: it looks like a script, and there is none.
    """
    if word == "-":
        return sys.stdin.read()
    if len(word.split()) != 1 or word.startswith("-"):
        return word
    script = Path(word)
    if script.is_file():
        return script.read_text(errors="replace")
    raise UserError(f"{word}: no such file: expected a script, or a command in quotes such as {EXAMPLE}")


def translate(command: Command) -> Draft:
    """The fields and the remarks of a command.

    Raises:
        UserError: a flag is unknown or unreadable, or without what cannot be carried over another thing would be trained.
    """
    draft = Draft(command, parse(command.flags))
    run_folder_and_trackers(draft)
    data(draft)
    batch_and_length(draft)
    model(draft)
    objective_and_precision(draft)
    towers(draft)
    optimizer(draft)
    schedule(draft)
    checkpoints(draft)
    evaluation_sets(draft)
    evaluation_steps(draft)
    _everything_else(draft)
    if draft.refused:
        reasons = "".join(f"\n  {line}" for line in draft.refused)
        raise UserError(
            f"mmclip would train something else than this command does:{reasons}\n"
            "take these flags away or change them, and a run file comes out"
        )
    return draft


def run_file(draft: Draft, name: str) -> str:
    """The text of the run file, which loads as a run.

    Raises:
        UserError: a value is outside of what mmclip takes.
    """
    content = render(draft, _start(draft.command, name))
    from_table(RunConfig, tomllib.loads(content), "import-flags")
    return content


def _everything_else(draft: Draft) -> None:
    """Account for each given flag that no group has dealt with."""
    written = " ".join(comment for _, comment in draft.fields.values()) + " ".join([*draft.others, *draft.tables])
    for name, value in draft.given.items():
        flag = flags()[name]
        if isinstance(value, str) and "$" in value:
            draft.lost.append(f"{as_given(name, value)}: a shell variable stands in it, which is not filled in")
        if name in draft.settled:
            continue
        matters = value != flag.value_by_default
        if flag.status == "not yet" and flag.effect == "refused" and matters:
            draft.refuse(name, flag.note)
        elif flag.status == "not yet" and flag.effect == "loud" and matters:
            draft.lose(name, flag.note)
        elif flag.status != "mapped":
            reason = "not needed" if flag.status == "not needed" else "not in mmclip yet"
            draft.others.append(f"{as_given(name, value)}: {reason}: {flag.note}")
        elif f"--{name}" not in written:
            draft.others.append(f"{as_given(name, value)}: {flag.note}")


def _start(command: Command, name: str) -> str:
    """How to begin the run with the launcher that the command had."""
    words = command.launcher.split()
    if any("torchrun" in word or "torch.distributed" in word for word in words):
        return f"{command.launcher} -m mmclip_launch.train {name}"
    if command.processes in (None, 1):
        return f"mmclip train {name}"
    if "srun" in words:  # accelerate does not read SLURM's ranks, so each node gets a torchrun
        return (
            "srun --ntasks-per-node=1 torchrun --nnodes $SLURM_NNODES --nproc_per_node GPUS_PER_NODE "
            f"--rdzv_backend c10d --rdzv_endpoint $MASTER_ADDR:$MASTER_PORT -m mmclip_launch.train {name}"
        )
    return f"torchrun --nproc_per_node {command.processes} -m mmclip_launch.train {name}"


def _own(words: list[str], name: str) -> str | None:
    """Take one of our own options out of the words."""
    for place, word in enumerate(words):
        if word == name and place + 1 < len(words):
            value = words[place + 1]
            del words[place : place + 2]
            return value
        if word.startswith(f"{name}="):
            del words[place]
            return word.partition("=")[2]
    return None
