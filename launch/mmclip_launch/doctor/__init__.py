from mmclip_launch.doctor.command import main

__all__ = ["main"]
