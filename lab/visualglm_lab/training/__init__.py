"""Training of the packed model: scene batches, initialization, auxiliary losses."""
