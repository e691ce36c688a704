"""The verbs: plain functions with dataclasses in and out, which know no terminal."""
