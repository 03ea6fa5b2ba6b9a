"""One file per checkpoint format: native, Hugging Face, sat; and how a folder's format is detected."""
