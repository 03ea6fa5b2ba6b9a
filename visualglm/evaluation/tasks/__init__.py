"""Tasks of `visualglm evaluate`, one file each: what is asked, and how the replies are scored."""
