"""What merge methods share: angles, random numbers, sign elections, order statistics, sums of fixed order."""
