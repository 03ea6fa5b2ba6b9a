"""Evaluation: drawn scenes, batch answering, answer matching, confidence intervals."""
