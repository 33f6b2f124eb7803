from mmclip_launch.models.command import main

__all__ = ["main"]
