"""The model that comes with the package, and the scenes of `refseg predict --demo`."""
