"""Devices, memory, threads, and the report of the machine."""
