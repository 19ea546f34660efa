"""``scale``: the base with each row or each column multiplied by a factor."""
