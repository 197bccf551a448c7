"""ROS 2 nodes: the world node, the policy node, and what wires them."""
