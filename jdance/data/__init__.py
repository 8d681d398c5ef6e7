"""Data pipeline from images, videos and key points to batches."""
