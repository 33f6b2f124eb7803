"""The data rooms: shards (the format), loading (the training-time path), features (cached encode passes), pipelines (offline jobs)."""
