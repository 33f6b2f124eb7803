"""Forms of evaluation set: each presents itself as `mmclip_eval.samples.Samples`."""
