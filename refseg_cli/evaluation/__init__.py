"""Answers to phrases, and what is made of them: scores, comparisons, calibration, the report."""
