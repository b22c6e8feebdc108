"""Training: pictures to an adapter, or to a changed model."""
