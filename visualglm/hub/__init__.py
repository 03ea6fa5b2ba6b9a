"""The model hub: find a model on this machine by its name, and download one that the user asks for."""
