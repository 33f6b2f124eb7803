"""Models of transformers (CLIP, SigLIP, SigLIP 2) in open_clip's architecture, and back."""
