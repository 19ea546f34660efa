"""``lowrank``: the base plus a product of small matrices."""
