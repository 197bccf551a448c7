"""The ROS 2 side of Mirage. It uses `mirage_env`; `mirage_env` knows nothing of it."""
