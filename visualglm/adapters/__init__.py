"""LoRA beside a model's weights: laid on, trained, merged. PEFT does the work.

Inference and training share this room. A P-tuning prefix is a part of the model itself (`prefix_adapter.py`); a
fine-tuned file is read in `checkpoints/formats/sat_lora.py`.
"""
