"""Other libraries' names for what this package does, so that their users change an import and nothing else."""
