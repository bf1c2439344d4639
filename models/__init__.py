"""What a model can do: MED (BLIP), adapters to other checkpoints, image and text preparation."""
