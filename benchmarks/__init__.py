"""Benchmarks, one module per question; each measures against a peer or a limit in the same run."""
