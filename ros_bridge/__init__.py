"""ROS 2 bridge: nodes, messages, bags and a player of learned worlds."""
