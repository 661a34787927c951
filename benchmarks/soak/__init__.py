"""Half an hour under a steady, mixed load: does anything grow that should not, and is it called in time to the end?"""
