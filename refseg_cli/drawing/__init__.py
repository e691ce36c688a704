"""Pictures of answers: masks, overlays, maps; and line charts."""
