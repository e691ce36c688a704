"""The page of an evaluation that people look at: what is on it (`content`), how answers fail, how it is written."""
