"""``scale``: a factor for each row or column."""
