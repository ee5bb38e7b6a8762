"""What is special to each model."""
