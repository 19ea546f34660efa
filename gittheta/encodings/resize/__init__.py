"""``resize``: rows or columns of the base in another order, some new ones between them."""
