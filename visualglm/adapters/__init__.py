"""Adapters beside a model's weights: attach, switch, merge. PEFT does the work.

Inference and training share this package. A P-tuning prefix is part of the model itself (`prefix_adapter.py`); a
fine-tuned sat file is read in `checkpoints/formats/sat_lora.py`.
"""
