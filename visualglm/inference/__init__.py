"""From a prompt to an answer: settings, image features, streaming, batches, upstream's chat calls."""
