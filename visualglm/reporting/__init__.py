"""Reports: the look of plots and of self-contained HTML pages, for evaluation, benchmarks and training."""
