"""The vocabulary, the batches and the stages of training from scratch. Recipes are data (TOML)."""
