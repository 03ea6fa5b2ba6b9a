"""Evaluation: tasks, readers of public files, drawn scenes, scores with intervals, comparisons, reports."""
