"""Images, text and chat messages to `pixel_values` and `input_ids`, and ids back to text."""
