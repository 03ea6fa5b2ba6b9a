"""Throughput of a model on this machine, and random weights of any size to measure."""
