"""What fine-tuning and pretraining share: processes, settings from TOML, the optimizer's state."""
