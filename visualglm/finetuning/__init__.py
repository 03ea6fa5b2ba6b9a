"""Your own pictures, questions and answers -> an adapter, or a model, that was trained on them."""
