"""danqing beside the reference implementations, diffusers and transformers, on random weights."""
