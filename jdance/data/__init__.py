"""From images, videos and key points to batches."""
