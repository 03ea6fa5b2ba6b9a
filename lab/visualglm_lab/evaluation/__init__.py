"""The packed model's figures, model card and gallery."""
