"""The networks of the Qwen-Image family: tensors in, tensors out.

Nothing here knows devices, files, adapters, quantisation or offload; those are applied to a built
network from outside.
"""
