"""Fine-tuning on images, questions and answers: LoRA, QLoRA, P-tuning and full."""
