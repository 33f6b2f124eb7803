"""From a run file to step 0, or to the step where a run, or its fork, goes on."""
