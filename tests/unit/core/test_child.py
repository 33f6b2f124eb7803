"""A process that takes orders ends when its orders end, whoever else was forked meanwhile."""

import multiprocessing

from mmclip.training.checkpoint.child import Child


def test_a_loader_process_that_was_forked_later_does_not_keep_it():
    child = Child("mmclip.training.checkpoint.writer", ["0"])
    child.start()
    fork = multiprocessing.get_context("fork")
    ends = fork.Event()
    loader = fork.Process(target=ends.wait, args=(60,), daemon=True)
    loader.start()
    assert child.close(30.0)
    assert loader.is_alive()
    ends.set()
    loader.join()
