"""Network blocks with two or more users, and the doors to timm and transformers."""
