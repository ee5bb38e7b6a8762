"""Whether images equal those they should equal."""
