"""Turn images, text and chat messages into model inputs, and ids into text."""
