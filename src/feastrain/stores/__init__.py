"""Feast: opening a feature repo, reading it online, and plugins for any Feast project."""
