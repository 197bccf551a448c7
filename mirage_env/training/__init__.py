"""Training of a world model from clips of images, depth and poses. A leaf: nothing of the core imports it."""
