"""One file per checkpoint layout: native, Hugging Face, sat; and how a folder's layout is detected."""
