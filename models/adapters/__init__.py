"""Other checkpoints behind the same protocols: BLIP-2, CLIP, SigLIP, and captioners of transformers."""
