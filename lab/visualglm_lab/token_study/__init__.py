"""Study: discrete image tokens against aligned image features, read by the same small language model."""
