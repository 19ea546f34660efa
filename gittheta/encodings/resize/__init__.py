"""``resize``: rows or columns of the base in another order, perhaps with new ones between them."""
