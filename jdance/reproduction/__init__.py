"""The paper's whole evaluation on one's own data, in one report."""
