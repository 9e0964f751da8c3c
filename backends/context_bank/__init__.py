"""The context bank: latent vectors of turns that cluster, fade and merge."""
