"""Recipes (TOML), one per published result or ablation row."""
