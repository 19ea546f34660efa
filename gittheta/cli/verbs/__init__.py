"""What users call: one module a verb, in rooms by errand."""
