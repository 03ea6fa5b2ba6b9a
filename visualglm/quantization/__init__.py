"""quantization: 8- and 4-bit weights, and what computes with them; knows nothing about VisualGLM."""
