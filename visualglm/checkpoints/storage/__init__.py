"""Files of tensors: lazy reading, shards, writing, and atomic folders."""
