"""Cut-outs, patch labels and text-only scenes for the packed model's training."""
