"""Recognition as one compiled program: frames in, people with their motions out."""
