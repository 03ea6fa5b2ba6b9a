"""The networks: tensors in, logits out. Imports nothing of ours for tokenizer, prompts, images or files."""
