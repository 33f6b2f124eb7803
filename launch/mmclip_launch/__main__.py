"""`python -m mmclip_launch VERB ...` is `mmclip VERB ...`, for where the command is not on the path."""

from mmclip_launch.cli import main

if __name__ == "__main__":
    main()
