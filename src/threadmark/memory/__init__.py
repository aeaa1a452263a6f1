"""What is remembered, and how it reaches the model."""
