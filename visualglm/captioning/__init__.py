"""Bulk captions: image sources, stored results, and the local and Ray engines."""
