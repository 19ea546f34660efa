"""``git merge -s theta``: any number of heads in one commit."""
