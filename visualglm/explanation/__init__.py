"""Which image patches an answer rests on, and a measurement of whether that is so."""
