"""The packed model's training: scene batches, initialisation, auxiliary losses."""
