"""Quantiles are fitted: what torchrun executes, from a snapshot to a bundle."""
