"""From pictures, key points and labels to batches."""
