"""Training and evaluation: pure steps, and one loop that owns every side effect."""
