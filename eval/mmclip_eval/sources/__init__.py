"""Forms of evaluation sets, one a file; all present themselves as `mmclip_eval.samples.Samples`."""
