"""Reproduction of the paper's evaluation on any data set, in one report."""
