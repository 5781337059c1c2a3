"""Benchmarks: the same work on hookpool and its peers, interleaved, with the raw samples kept."""
