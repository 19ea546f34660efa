"""``lowrank``: a change that a few small matrices describe."""
