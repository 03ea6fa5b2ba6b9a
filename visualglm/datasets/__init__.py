"""Files of rows that name images, as many tools write them."""
