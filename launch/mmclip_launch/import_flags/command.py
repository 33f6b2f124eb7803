"""A command line as it stands in a terminal, a README or a batch script: the trainer's flags, and how many processes.

Nothing is run, and nothing is filled in: `$VARIABLES` stay as they stand.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from mmclip.errors import UserError

MODULES = {"open_clip_train.main", "open_clip_train", "training.main", "src.training.main", "src.open_clip_train.main"}
SCRIPT = re.compile(r"(^|/)(training|open_clip_train)/main\.py$|^(\./)?main\.py$")
ANY_MAIN = re.compile(r"(^|/)main\.py$")
ENDS = re.compile(r"^[;&|<>()]+$")
STREAM = re.compile(r"(?<=\s)[012](?=>)")  # the number in `2>&1` is no word
CONTINUED = re.compile(r"\\[ \t]*\r?\n")  # a blank behind the backslash, as copied from a page, means the same
PER_NODE = ("--nproc_per_node", "--nproc-per-node", "--nproc")
EXAMPLE = "python -m open_clip_train.main --train-data ... "


@dataclass(frozen=True)
class Command:
    """The trainer's flags, and how it is started."""

    flags: tuple[str, ...]
    processes: int | None
    """None where the command does not say."""
    launcher: str
    """What starts it, for a comment."""


def read_command(text: str) -> Command:
    """Find the trainer in a shell text of one or more lines.

    Raises:
        UserError: no trainer is there, or several, or the quotes do not close.
    """
    lines = CONTINUED.sub(" ", text.strip().rstrip("\\")).splitlines()
    batch = [word for line in lines if line.startswith("#SBATCH") for word in _words(line.removeprefix("#SBATCH"))]
    commands = [part for line in lines if not line.lstrip().startswith("#") for part in _parts(_words(line))]
    found = [command for words in commands if (command := _command(words, batch))]
    if not found and len(commands) == 1 and commands[0][0].startswith("--"):
        return Command(tuple(commands[0]), None, "")  # bare flags
    if len(found) != 1:
        what = "no open_clip trainer" if not found else f"{len(found)} open_clip trainers"
        raise UserError(f"{what} in the text: expected one command such as {EXAMPLE}")
    return found[0]


def read_words(words: Sequence[str]) -> Command:
    """As `read_command`, for words that a shell has split already.

    Raises:
        UserError: no trainer is there.
    """
    found = _command(list(words), [])
    if found:
        return found
    if words and words[0].startswith("--"):
        return Command(tuple(words), None, "")
    raise UserError(f"no open_clip trainer in {' '.join(words)[:80]!r}: expected a command such as {EXAMPLE}")


def _words(line: str) -> list[str]:
    reader = shlex.shlex(STREAM.sub("", line), posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    reader.commenters = ""
    try:
        return list(reader)
    except ValueError as error:
        raise UserError(f"the command line cannot be split into words ({error}): {line[:80]!r}") from error


def _parts(words: list[str]) -> list[list[str]]:
    """Simple commands: `cd x && train 2>&1 | tee log` is three, of which only the second starts a trainer."""
    parts: list[list[str]] = [[]]
    for word in words:
        if ENDS.match(word):
            parts.append([])
        elif word.startswith("#"):
            break
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _command(words: list[str], batch: list[str]) -> Command | None:
    for place, word in enumerate(words):
        is_moved = ANY_MAIN.search(word) and any(flag.startswith("--train-data") for flag in words[place + 1 :])
        is_module = word == "-m" and words[place + 1 : place + 2] and words[place + 1] in MODULES
        if is_module or SCRIPT.search(word) or is_moved:
            launcher = words[:place]
            flags = words[place + 2 :] if word == "-m" else words[place + 1 :]
            return Command(tuple(flags), _processes(launcher, batch), " ".join(launcher))
    return None


def _processes(launcher: list[str], batch: list[str]) -> int | None:
    """How many processes the launcher starts, by its own rules."""
    names = {word.rpartition("/")[2] for word in launcher}
    is_torchrun = bool({"torchrun", "torch.distributed.run", "torch.distributed.launch"} & names)
    is_slurm = bool({"srun", "sbatch"} & names)
    tasks = _slurm_tasks([*batch, *launcher]) if is_slurm else 1
    if is_torchrun:
        per_node = _number(_value(launcher, *PER_NODE) or "1")
        nodes = _value(launcher, "--nnodes")
        if nodes is None:  # one torchrun on each node is one task of srun's
            return None if per_node is None or tasks is None else per_node * tasks
        count = _number(nodes) if "$" not in nodes else _slurm_tasks([*batch, *launcher])
        return None if per_node is None or count is None else per_node * count
    if "accelerate" in names or "accelerate.commands.launch" in names:
        return _number(_value(launcher, "--num_processes", "--num-processes") or "")
    if names & {"mpirun", "mpiexec", "horovodrun"}:
        return _number(_value(launcher, "-np", "-n", "--np", "--num-proc") or "")
    return tasks


def _slurm_tasks(words: list[str]) -> int | None:
    total = _value(words, "-n", "--ntasks")
    if total is not None:
        return _number(total)
    nodes = _number(_value(words, "-N", "--nodes") or "")
    per_node = _number(_value(words, "--ntasks-per-node") or "1")
    return None if nodes is None or per_node is None else nodes * per_node


def _value(words: list[str], *names: str) -> str | None:
    """The value of the last of these options: `--name value`, `--name=value` or, for one letter, `-n4`."""
    found = None
    for place, word in enumerate(words):
        for name in names:
            if word == name:
                found = words[place + 1] if place + 1 < len(words) else None
            elif word.startswith(f"{name}="):
                found = word.partition("=")[2]
            elif len(name) == 2 and word.startswith(name) and word[2:].isdigit():
                found = word[2:]
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) > 0 else None
