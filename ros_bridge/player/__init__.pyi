from .world_player import WorldPlayer as WorldPlayer
