"""A run of two ranks with two loader processes each, and one fault after another: make chaos [SEED=0] [MINUTES=10].

    python tests/faults/chaos.py --seed 0 --minutes 10

First the run is trained undisturbed, with all its checkpoints kept. Then it is trained again, every two dozen steps something
breaks, and whenever it ends too early it is started again, by the same words, as a scheduler would. A fault is survived where a
checkpoint of a later step appears without a person; it is exact where that checkpoint's weights and moments, and the ledger up
to there, have the bytes of the undisturbed run's. Where samples were lost for good, the ledger must differ by what the
quarantine names and by nothing else.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chaos_arena import SAVE_EVERY_STEPS, Arena, ledger, sums
from chaos_faults import KINDS, NAN, Kind, Scene
from chaos_verdict import Outcome, declared, machine, table, unexplained_steps, write_between_markers

from mmclip_data.testing.store_faults import FaultyServer, serving

SPACING_STEPS = 24
FAULTS_A_MINUTE = 3
RECOVERY_SECONDS = 240.0
MOST_RESTARTS = 12
INSIDE = "CHAOS_INSIDE_ITS_NAMESPACE"
PAGES = Path(__file__).parents[2]


def main() -> int:
    options = parse()
    if INSIDE not in os.environ and may_unshare():
        command = ["unshare", "-rm", sys.executable, *sys.argv]  # in there it may mount, and nobody else sees it
        os.execvpe("unshare", command, {**os.environ, INSIDE: "yes"})
    has_mounts = INSIDE in os.environ
    kinds = chosen_kinds(options.kind, has_mounts)
    count = options.faults or max(len(kinds), round(options.minutes * FAULTS_A_MINUTE))
    plan = planned(kinds, count, options.seed)
    dice = random.Random(options.seed)
    place = Path(tempfile.mkdtemp(prefix="mmclip-chaos-"))
    nan_steps = {step: dice.randrange(2) for step, kind in plan if kind.name == NAN}
    with serving(FaultyServer()) as server:
        arena = Arena(place, SPACING_STEPS * (len(plan) + 2), nan_steps, 0.1, server)
        try:
            arena.prepare(has_mounts)
            say(f"{len(plan)} faults of {len(kinds)} kinds over {arena.steps} steps, seed {options.seed}, in {place}")
            arena.train_undisturbed()
            outcomes, wrong = disturb(arena, plan, dice, 60 * options.minutes)
            return conclude(arena, outcomes, wrong, options)
        finally:
            arena.stop()
            if options.keep:
                shutil.copytree(arena.run, place / "kept", symlinks=True)  # its disk goes with the namespace
                say(f"kept: {place}")
            arena.clear(leave_files=options.keep)


def may_unshare() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A training run, and one fault after another.")
    parser.add_argument("--seed", type=int, default=0, help="of which fault comes when, and where it hits")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults are injected")
    parser.add_argument("--faults", type=int, help="how many (default: three a minute, and each kind once)")
    parser.add_argument(
        "--kind", action="append", default=[], help="words of a kind's name: these alone; may be repeated"
    )
    parser.add_argument("--write", action="store_true", help="put the table into README.md and docs/faults.md")
    parser.add_argument("--keep", action="store_true", help="leave the folder, with its log")
    return parser.parse_args()


def chosen_kinds(words: Sequence[str], has_mounts: bool) -> list[Kind]:
    kinds = [kind for kind in KINDS if not words or any(word in kind.name for word in words)]
    left_out = [kind.name for kind in kinds if kind.needs_mounts and not has_mounts]
    if left_out:
        say(f"this user may not mount: left out are {', '.join(left_out)}")
    return [kind for kind in kinds if has_mounts or not kind.needs_mounts]


def planned(kinds: Sequence[Kind], count: int, seed: int) -> list[tuple[int, Kind]]:
    """Every kind once before any comes twice; those that lose samples come last, because weights differ from then on."""
    dice = random.Random(seed)
    last = [kind for kind in kinds if kind.is_declared]
    first = [kind for kind in kinds if not kind.is_declared]
    order: list[Kind] = []
    while first and len(order) < count - len(last):
        order += dice.sample(first, len(first))
    order = [*order[: max(0, count - len(last))], *last]
    return [
        (SPACING_STEPS * (number + 1) + dice.randrange(SPACING_STEPS // 2), kind) for number, kind in enumerate(order)
    ]


def disturb(
    arena: Arena, plan: Sequence[tuple[int, Kind]], dice: random.Random, seconds: float
) -> tuple[list[Outcome], list[str]]:
    """Inject the plan's faults, as many as the time allows, and bring the run to its end."""
    scene = Scene(arena, dice, arena.start_disturbed())
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for step, kind in plan:
        is_late = time.monotonic() - began > 0.9 * seconds
        if is_late and not kind.is_declared:
            continue
        if not is_late and not advance(scene, lambda step=step: arena.step() >= step, RECOVERY_SECONDS + SPACING_STEPS):
            return outcomes, [f"the run did not come to step {step}"]
        if scene.launcher.poll() == 0:
            break
        outcomes.append(inject(scene, kind, had_declared=any(one.kind in DECLARED for one in outcomes)))
        told(outcomes[-1])
        if not outcomes[-1].survived:
            return outcomes, [f"{kind.name} was not survived"]
    if not advance(scene, lambda: scene.launcher.poll() == 0, 900.0 + arena.steps):
        return outcomes, ["the run did not come to its end"]
    return outcomes, []


DECLARED = {kind.name for kind in KINDS if kind.is_declared}


def inject(scene: Scene, kind: Kind, had_declared: bool) -> Outcome:
    arena = scene.arena
    step, newest, began, starts = (
        arena.step(),
        max(arena.checkpoints(), default=0),
        time.monotonic(),
        len(arena.launched),
    )
    scene.notes = []
    say(f"step {step}: {kind.name}")
    kind.do(scene)
    newest = max(newest, step, arena.step())  # what was on its way to the disk before says nothing
    survived = advance(scene, lambda: max(arena.checkpoints(), default=0) > newest)
    seconds, restarts = time.monotonic() - began, len(arena.launched) - starts
    exact = survived and is_exact(arena, had_declared or kind.is_declared) and not scene.notes
    return Outcome(kind.name, step, survived, exact, restarts, seconds, scene.notes)


def advance(scene: Scene, done: object, seconds: float = RECOVERY_SECONDS) -> bool:
    """Wait, and start the run again whenever it has ended too early."""
    deadline, restarts = time.monotonic() + seconds, 0
    while not done():  # type: ignore[operator]
        code = scene.launcher.poll()
        if code is not None and code != 0:
            if restarts == MOST_RESTARTS:
                return False
            restarts += 1
            scene.launcher = scene.arena.start_disturbed()
        elif code == 0:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def is_exact(arena: Arena, is_declared: bool) -> bool:
    """The newest checkpoint and the ledger up to it are the undisturbed run's."""
    for _ in range(100):  # retention may take a checkpoint away while it is looked at
        step = max(arena.checkpoints())
        try:
            same = sums(arena.checkpoints()[step]) == sums(arena.clean / "checkpoints" / f"step-{step:08d}")
        except (OSError, KeyError, ValueError):
            time.sleep(0.01)
            continue
        if is_declared:
            return not unexplained_steps(arena.run, arena.clean, range(1, step + 1))
        ours, theirs = ledger(arena.run), ledger(arena.clean)
        return same and all(ours.get(number) == theirs[number] for number in range(1, step + 1))
    return False


def conclude(arena: Arena, outcomes: Sequence[Outcome], wrong: list[str], options: argparse.Namespace) -> int:
    lost = unexplained_steps(arena.run, arena.clean, range(1, arena.steps + 1))
    is_declared = any(one.kind in DECLARED for one in outcomes)
    if not wrong and not is_declared and not is_exact(arena, False):
        wrong = ["the weights at the end are not the undisturbed run's"]
    wrong += [f"steps with other samples than is declared: {lost[:10]}"] if lost else []
    wrong += [f"{one.kind} at step {one.step}: not exact {one.notes}" for one in outcomes if not one.exact]
    replaced = sum(map(len, declared(arena.run).values()))
    kinds = len({one.kind for one in outcomes})
    head = (
        f"{len(outcomes)} faults of {kinds} kinds in a run of {arena.steps} steps on 2 ranks with 2 loader processes each, "
        f"seed {options.seed}; samples silently lost: {len(lost)}; replaced and named: {replaced} ({machine()})"
    )
    text = f"{head}\n\n{table(outcomes)}"
    print(text)
    for line in wrong:
        print(f"chaos: {line}", file=sys.stderr)
    if options.write and not wrong:
        for page in ("README.md", "docs/faults.md"):
            write_between_markers(PAGES / page, "chaos", text)
    return 1 if wrong else 0


def told(outcome: Outcome) -> None:
    words = "survived" if outcome.survived else "NOT SURVIVED"
    words += "" if outcome.exact else ", NOT EXACT"
    say(f"  {words}, {outcome.restarts} starts, {outcome.seconds:.0f} s {'; '.join(outcome.notes)}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    assert SAVE_EVERY_STEPS < SPACING_STEPS
    sys.exit(main())
