"""How good a forecast is, honestly: scores, baselines on the same rows, backtests."""
