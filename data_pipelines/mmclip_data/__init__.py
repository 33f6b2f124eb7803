"""The data rooms: shards (the format), loading (the training path), features (encode passes), pipelines (offline jobs)."""
