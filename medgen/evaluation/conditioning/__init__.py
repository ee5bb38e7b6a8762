"""Whether samples show what they were asked to show."""
