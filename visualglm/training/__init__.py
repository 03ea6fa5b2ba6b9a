"""Shared by fine-tuning and pretraining: processes, TOML settings, optimizer state."""
