"""Whatever answers phrases about pictures: base.py says what that is, every other segmenter is a file."""
