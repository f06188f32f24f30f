"""A snapshot becomes quantiles: one encoder, models, losses, baselines, and the bundle."""
