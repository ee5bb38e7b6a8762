"""Whether images obey their masks."""
