"""Training policies with Stable-Baselines3: worlds that step together, exact resumption, evaluation in both worlds."""
