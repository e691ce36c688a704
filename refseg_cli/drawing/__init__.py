"""Pictures of answers: masks, overlays, maps."""
