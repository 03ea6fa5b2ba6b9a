"""Many pictures in bulk: where they come from (sources), what is known already (results), the run (run)."""
