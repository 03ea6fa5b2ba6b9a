"""Laboratory of the packed model: training data, training, evaluation.

It depends on visualglm; visualglm never imports it.
"""
