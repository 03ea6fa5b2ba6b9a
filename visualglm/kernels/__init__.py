"""CPU kernels and what calls them: packing of weights, the C library, torch operators, decode attention."""
