"""The laboratory of the packed model: its images, training and figures. Depends on visualglm, never the reverse."""
