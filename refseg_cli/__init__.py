"""refseg: referring expression segmentation from the command line."""

__version__ = "0.1.0"
__date__ = "2026-11-21"  # of that version, for the man pages
