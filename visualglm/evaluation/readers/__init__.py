"""Readers of public evaluation files as they are published, one file per kind of task."""
