"""Contact sheets of sets."""
