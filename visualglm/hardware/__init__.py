"""Devices, dtypes, memory and threads of this machine."""
