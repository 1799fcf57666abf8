"""What tools/benchmark.py measures and how; kdmm does not import it."""
