"""Policy interface."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Policy(Protocol):
    """Chooses an action from an observation; `reset` starts an episode and fixes all randomness."""

    def reset(self, seed: int | None = None) -> None: ...

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]: ...
