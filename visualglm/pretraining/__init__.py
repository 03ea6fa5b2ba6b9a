"""Training from scratch: BLIP-2's two stages on image-text pairs."""
