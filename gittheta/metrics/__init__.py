"""What a numeric diff can measure. None is built in yet; plugins may bring their own."""
