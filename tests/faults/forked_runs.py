"""A process that has imported what a training needs, and forks a training for each line of its input.

A kill needs a process of its own, and each process of its own pays five seconds for its imports; a fork pays nothing.
Orders are JSON: {"start": [words of `mmclip train`], "log": path} answers with the new process's id; {"wait": id} with
its exit code (negative: the signal), once it has one; {"poll": id} with that or null at once.
"""

import json
import os
import sys

import open_clip  # noqa: F401  (what a training imports late)

from mmclip_launch.cli import run_verb
from mmclip_launch.train import main


def start(words: list[str], log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()  # a process group of its own, so that a kill takes the loader's workers along, as a lost machine would
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    sys.exit(run_verb(main, words))


def code_of(pid: int, flags: int) -> int | None:
    found, status = os.waitpid(pid, flags)
    return os.waitstatus_to_exitcode(status) if found else None


for line in sys.stdin:
    order = json.loads(line)
    if "start" in order:
        answer = start(order["start"], order["log"])
    else:
        answer = code_of(order["wait"], 0) if "wait" in order else code_of(order["poll"], os.WNOHANG)
    print(json.dumps(answer), flush=True)
