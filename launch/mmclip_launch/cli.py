"""The `mmclip` command: a table of verbs, each loaded only when it is called, so that `--help` answers at once."""

import importlib
import sys
from collections.abc import Callable, Sequence

VERBS = {
    "demo": ("mmclip_launch.demo", "train on the pictures that come with mmclip, and score what was learned"),
    "train": ("mmclip_launch.train", "one training run: mmclip train CONFIG.toml [--resume] [--FIELD VALUE ...]"),
    "eval": ("mmclip_launch.evaluate", "zero-shot scores: mmclip eval CHECKPOINT [--dataset PATH ...]"),
    "report": ("mmclip_launch.report", "one self-contained page: mmclip report RUN"),
    "shards": ("mmclip_launch.shards", "shards make folder|idx|emoji, shards index PATH: data in WebDataset tars"),
    "models": ("mmclip_launch.models", "architectures and released weights that load: mmclip models [WORD ...]"),
    "export": ("mmclip_launch.export", "weights for others, with a model card: mmclip export CHECKPOINT FOLDER"),
    "doctor": ("mmclip_launch.doctor", "what this machine has, what is wrong with it, and how to mend it"),
    "import-flags": ("mmclip_launch.import_flags", "an open_clip command line as a run file"),
}
EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130

HELP = "usage: mmclip VERB ...\n\nTrains image-text models on WebDataset shards and scores them.\n\nverbs:\n{verbs}\n\n{tail}"
TAIL = "mmclip VERB --help tells more. Exit codes: 0 done, 1 failed, 2 a mistake in what was asked, 130 interrupted."


def main() -> None:
    """Entry point of the installed command."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = (f"  {verb:13}{summary}" for verb, (_, summary) in VERBS.items())
        print(HELP.format(verbs="\n".join(lines), tail=TAIL))
        sys.exit(0 if arguments else EXIT_USER_ERROR)
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"mmclip {version('mmclip')}")
        sys.exit(0)
    if arguments[0] not in VERBS:
        import difflib

        near = difflib.get_close_matches(arguments[0], VERBS, n=1, cutoff=0.4)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        print(f"mmclip: unknown verb {arguments[0]!r}{guess} Verbs: {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    sys.exit(run_verb(lambda words: importlib.import_module(VERBS[arguments[0]][0]).main(words), arguments[1:]))


def run_verb(verb: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run a verb; a mistake of the user is one message and code 2, anything else keeps its traceback and ends in 1."""
    from mmclip.errors import BadSampleError, UserError

    try:
        verb(arguments)
    except (UserError, BadSampleError) as error:
        print(f"mmclip: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("mmclip: interrupted; `--resume` continues from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0
