"""Where the time of a training step goes, and how it compares with what the machine could do."""
