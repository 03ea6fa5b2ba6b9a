"""Layers around the app: keys, limits, origins, request ids."""
