"""What launch/bench_*.py share: timing of candidates in turn, and the networks in PyTorch."""
