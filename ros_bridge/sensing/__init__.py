"""Sensing: transforms between frames, time synchronisation, rectification and camera mounts, without ROS."""
