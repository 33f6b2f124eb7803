import mmclip  # noqa: F401  (defines the operators that torchvision lacks before any test imports open_clip)
