"""The paper's evaluation on one's own data, in one report."""
