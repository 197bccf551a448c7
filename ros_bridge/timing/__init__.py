"""Time: the clock of a node, timers at a steady rate, and simulated clocks."""
