"""What merge methods share: angles, random numbers, sign elections, order statistics, sums in a fixed order."""
