"""Upstream's sat-style API, so that its users change only an import."""
