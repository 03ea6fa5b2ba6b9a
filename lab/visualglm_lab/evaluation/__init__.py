"""Evaluation of the packed model: results, model card, gallery."""
