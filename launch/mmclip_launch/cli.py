"""The `mmclip` command: a table of verbs, each loaded only when it is called, so that `--help` answers at once."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mmclip.errors import PreemptedError
from mmclip_launch.launcher import EXIT_REQUEUE

VERBS = {
    "demo": ("mmclip_launch.demo", "train on the pictures that come with mmclip, and score what was learned"),
    "train": (
        "mmclip_launch.train",
        "one training run: mmclip train CONFIG.toml|RECIPE [--resume] [--FIELD VALUE ...]",
    ),
    "finetune": ("mmclip_launch.finetune", "from released weights: mmclip finetune RECIPE --init SOURCE --data SHARDS"),
    "eval": ("mmclip_launch.evaluate", "scores of a checkpoint: mmclip eval CHECKPOINT [--dataset PATH ...]"),
    "results": (
        "mmclip_launch.results",
        "results of any origin in one table: mmclip results PATH ...",
    ),
    "embed": (
        "mmclip_launch.embed",
        "embeddings in clip-retrieval's layout: mmclip embed CHECKPOINT --data SHARDS --output FOLDER",
    ),
    "sparse": (
        "mmclip_launch.sparse",
        "what a model's embeddings are made of: mmclip sparse CHECKPOINT --data SHARDS --output FOLDER",
    ),
    "report": ("mmclip_launch.report", "one self-contained page: mmclip report RUN, or --results PATH..."),
    "shards": (
        "mmclip_launch.shards",
        "shards make folder|idx|emoji|stamps, shards index PATH: data in WebDataset tars",
    ),
    "models": ("mmclip_launch.models", "architectures and released weights that load: mmclip models [WORD ...]"),
    "interpolate": (
        "mmclip_launch.interpolate",
        "the models between two, scored: mmclip interpolate A B --alpha 0 .1 ... 1 --suite FILE --output FOLDER",
    ),
    "compare": (
        "mmclip_launch.compare",
        "is the new model safe in place of the old one? mmclip compare A B --data SHARDS [--against C ...]",
    ),
    "average": ("mmclip_launch.average", "one model of several, a soup: mmclip average A B C FOLDER [--greedy]"),
    "contrasim": (
        "mmclip_launch.contrasim",
        "a learned similarity of models, and its controls: mmclip contrasim layers|captions|digits",
    ),
    "export": ("mmclip_launch.export", "weights for others, with a model card: mmclip export CHECKPOINT FOLDER"),
    "doctor": ("mmclip_launch.doctor", "what this machine has, what is wrong with it, and how to mend it"),
    "import-flags": ("mmclip_launch.import_flags", "an open_clip command line as a run file"),
}

HELP = "usage: mmclip VERB ...\n\nTrains image-text models on WebDataset shards and scores them.\n\nverbs:\n{verbs}\n\n{tail}"
TAIL = """mmclip VERB --help tells more; --debug anywhere shows the traceback of a failure.
Exit codes: 0 done, 1 a fault of mmclip, 2 a mistake in what was asked, 3 the machine failed (full disk, memory, another
process), 4 a guard did not hold (--max-forgetting; `compare` says unsafe, `contrasim` nothing), 5 a person should look
(`compare`), 75 told to end by SIGTERM or SIGUSR1 (--resume goes on), 130 interrupted.
docs/errors.md lists the messages."""


def main() -> None:
    """Entry point of the installed command."""
    end(run_verb(dispatch, sys.argv[1:]))


def end(code: int) -> NoReturn:
    """End this process.

    One that was told to end does so without the interpreter's own end, which takes two seconds of a scheduler's patience,
    and on several processes may wait for a peer that is gone.
    """
    if code == EXIT_REQUEUE:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run_verb(verb: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run a verb and return its exit code; whatever it raises ends in one message, with a traceback under `--debug` only."""
    words = [word for word in arguments if word != "--debug"]
    try:
        verb(words)
        sys.stdout.flush()  # a reader that has gone is noticed here, not by the interpreter at its end
    except (Exception, KeyboardInterrupt, PreemptedError) as error:
        from mmclip_launch.faults import report

        return report(error, debug=len(words) < len(arguments))
    return 0


def dispatch(arguments: Sequence[str]) -> None:
    """Load the module of the verb that comes first, and run it on the rest.

    Raises:
        UserError: there is no such verb.
    """
    first = arguments[0] if arguments else None
    if first in (None, "-h", "--help"):
        lines = (f"  {verb:13}{summary}" for verb, (_, summary) in VERBS.items())
        print(HELP.format(verbs="\n".join(lines), tail=TAIL))
        if first is None:
            raise SystemExit(2)
    elif first == "--version":
        from importlib.metadata import version

        print(f"mmclip {version('mmclip')}")
    elif first in VERBS:
        importlib.import_module(VERBS[first][0]).main(arguments[1:])
    else:
        import difflib

        from mmclip.errors import UserError

        near = difflib.get_close_matches(first, VERBS, n=1, cutoff=0.4)
        guess = f"; did you mean {near[0]!r}?" if near else ";"
        raise UserError(f"unknown verb {first!r}{guess} expected one of {', '.join(VERBS)}")


if __name__ == "__main__":
    main()
