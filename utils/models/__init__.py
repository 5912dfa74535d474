"""Pretrained networks, loaded and run: Stable Diffusion, CLIP, captioners, language models."""
