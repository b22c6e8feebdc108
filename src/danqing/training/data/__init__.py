"""Training data: pictures with captions, from their files to what a step of training reads."""
