import os

from mmclip_launch.launcher import answer_signals_early, die_with_launcher

# Before torch loads its OpenMP: idle threads sleep instead of spinning. Beside one loader process on two cores, spinning
# made a step of a small model cost four times the CPU (measured; docs/log.md). A user's own setting wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

answer_signals_early()
die_with_launcher()
