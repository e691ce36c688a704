"""The models that come with the package, and the pictures of `refseg predict --demo`."""
