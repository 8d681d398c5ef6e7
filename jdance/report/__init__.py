"""Reports: one self-contained page and its tables, of a run or of a whole comparison."""
