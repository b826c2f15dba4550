"""Floor 2: inventory, policy, the one decision function, and the executor with its remover."""
