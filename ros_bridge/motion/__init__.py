"""Motion: commands of velocities, goals and paths, and the cameras that follow from them."""
