"""The laboratory of the packed model: its images, scenes, training and figures. Depends on visualglm, never the reverse."""
