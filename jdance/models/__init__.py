"""Flax linen modules, and nothing else."""
