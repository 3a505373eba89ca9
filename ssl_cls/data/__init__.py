"""Images in, uint8 pixels out: where they come from, which of them make up a batch, and in which order."""
