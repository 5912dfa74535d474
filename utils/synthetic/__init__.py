"""The embedded default: rendered hands, a tiny Stable Diffusion and a feature network that need no download."""
