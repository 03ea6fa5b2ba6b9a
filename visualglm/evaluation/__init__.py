"""What a model gets right, with sample sizes, intervals and controls."""
